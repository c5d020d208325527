"""The expert's completion in the place of a sample, φ of demonstrations, and the score as reward: all exact."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exact import (
    EXPERTS,
    assert_close,
    assert_same_gradients,
    double,
    exact_policy,
    gradients,
    mixed_batch,
    plain_logprobs,
    rewards,
    sequences_of,
)
from one_step import Step, recipe
from tiny_runs import Tiny, rows
from trainers import make_trainer, metrics_of

from uniapl.config.recipe import TermWeights
from uniapl.models.packing import sequence_of
from uniapl.types import RolloutBatch

REWARDS_ALONE = TermWeights(sft=0.0, grpo=1.0, adversarial=0.0, kl=0.0)
TOTALS = (0.0, 0.2, 1.0, *(0.9, 0.5, 0.1), *(0.3, 0.1, 0.2), *(0.1, 0.1, 0.1))
"""In the first group the expert is the best, in the second the worst of three."""


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with double():
        yield


def with_experts() -> RolloutBatch:
    """The expert's completion is the last member of the first two groups."""
    batch = mixed_batch()
    rollouts = list(batch.rollouts)
    for group, expert in enumerate(EXPERTS[:2]):
        place = group * 3 + 2
        rollouts[place] = replace(
            rollouts[place],
            completion=expert.completion,
            token_ids=expert.token_ids,
            sampling_logprobs=(0.0,) * len(expert.token_ids),
            finish_reason="stop",
            is_expert=True,
        )
    return replace(batch, rollouts=tuple(rollouts), rewards=rewards(*TOTALS))


def plain_gradient(batch: RolloutBatch, temperature: float) -> dict[str, torch.Tensor]:
    """Minus the gradient of Σ A_i · log π(y_i) / N_reward, written rollout by rollout, ρ = 1."""
    policy = exact_policy()
    num_tokens = sum(len(r.token_ids) for r in batch.rollouts)
    value = torch.zeros(())
    for first in range(0, 12, 3):
        totals = torch.tensor(TOTALS[first : first + 3])
        centred = (
            (totals - totals.mean()) / (totals.std() + 1e-4) if totals.std() > 1e-9 else totals * 0
        )
        for sample, advantage in zip(batch.rollouts[first : first + 3], centred, strict=True):
            if sample.is_expert:
                advantage = advantage.clamp(min=0)
            logprobs = plain_logprobs(policy.model, sequence_of(sample), temperature)
            value = value - advantage * logprobs.sum() / num_tokens
    value.backward()
    return gradients(policy)


@pytest.mark.parametrize("importance_cap", [None, 1.5])
@pytest.mark.parametrize("is_first", [True, False])
def test_its_reward_counts_and_it_never_pushes_away(
    *, is_first: bool, importance_cap: float | None
) -> None:
    """The expert's ratio is 1 in the second update on a batch, too, and no importance weight touches it."""
    batch = with_experts()
    step = Step(
        batch,
        weights=REWARDS_ALONE,
        experts=[],
        has_credit=False,
        recipe_=recipe(rollout={"importance_cap": importance_cap, "updates_per_rollout": 1}),
    )
    own = [plain_logprobs(exact_policy().model, x, 0.7).detach() for x in sequences_of(batch)]
    said, old = [], []
    for sample, logprobs in zip(batch.rollouts, own, strict=True):
        # the generator said what the policy says; π_old of the expert's tokens is nobody's
        said.append(
            sample
            if sample.is_expert
            else replace(sample, sampling_logprobs=tuple(logprobs.tolist()))
        )
        old.append(torch.full_like(logprobs, -9.0) if sample.is_expert else logprobs)
    step.batch = replace(batch, rollouts=tuple(said))
    metrics = step(None if is_first else torch.cat(old))
    assert_same_gradients(step.gradients, plain_gradient(batch, 0.7))
    assert_close(metrics["policy/ratio_mean"], 1.0)
    assert_close(metrics["policy/sampling_gap"], 0.0)


def test_metrics_are_those_of_what_the_policy_said() -> None:
    batch = with_experts()
    metrics = Step(batch, weights=REWARDS_ALONE, experts=[], has_credit=False)()
    said = [t for t, r in zip(TOTALS, batch.rollouts, strict=True) if not r.is_expert]
    assert_close(metrics["reward/mean"], sum(said) / len(said))
    assert metrics["data/sampled_tokens"] == sum(len(r.token_ids) for r in batch.sampled)
    assert_close(
        metrics["rollout/completion_tokens_mean"],
        len([t for r in batch.sampled for t in r.token_ids]) / 10,
    )


def test_neither_the_discriminator_nor_the_penalty_counts_it() -> None:
    trainer = make_trainer(
        "uniapl",
        rollout={"expert_in_group": True},
        objective={"kl_coef": 0.1},
        data={"held_out_demonstrations": 0},
    )
    result = trainer.train_step()
    assert result.tokens is not None
    assert result.judgement is not None
    assert result.rollouts is not None
    flags = [r.is_expert for r in result.rollouts.rollouts]
    assert flags == [False, False, True] * 2 + [False] * 6
    is_expert_T = torch.tensor([r.is_expert for r in result.rollouts.rollouts for _ in r.token_ids])
    assert not result.judgement.is_credited_T[is_expert_T].any()
    assert result.judgement.is_credited_T[~is_expert_T].all()
    assert not result.tokens.is_penalised_T[is_expert_T].any()
    assert result.tokens.is_rewarded_T[is_expert_T].all()
    for group in (0, 1):
        expert, sample = result.rollouts.experts[group], result.rollouts.rollouts[group * 3 + 2]
        assert expert is not None
        assert (sample.token_ids, sample.completion) == (expert.token_ids, expert.completion)


def test_a_ranking_form_does_not_rank_the_expert_against_itself() -> None:
    trainer = make_trainer(
        "uniapl", rollout={"expert_in_group": True}, discriminator={"form": "scalar"}
    )
    result = trainer.train_step()
    assert result.judgement is not None
    assert result.rollouts is not None
    is_expert_T = torch.tensor([r.is_expert for r in result.rollouts.rollouts for _ in r.token_ids])
    assert not result.judgement.is_credited_T[is_expert_T].any()


def test_a_run_with_the_expert_in_its_groups(tiny: Tiny, tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    run = tiny.train(tmp_path / "run", "method=mix-both", "rollout.expert_in_group=true")
    assert len(rows(run)) == 4


# φ


def test_phi_weighs_every_expert_token_without_a_gradient_of_its_own() -> None:
    step = Step(
        None,
        weights=TermWeights(sft=0.3, grpo=0.0, adversarial=0.0, kl=0.0),
        has_credit=False,
        recipe_=recipe(objective={"sft_token_weight": "phi"}),
    )
    metrics = step()
    policy = exact_policy()
    logprobs = torch.cat([plain_logprobs(policy.model, sequence_of(d)) for d in step.experts])
    phi = (logprobs.exp() * (1 - logprobs.exp())).detach()
    (-0.3 * (phi * logprobs).sum() / len(logprobs)).backward()
    assert_same_gradients(step.gradients, gradients(policy))
    assert_close(metrics["objective/sft"], -logprobs.mean().item())
    assert_close(metrics["objective/sft_token_weights"], 0.3 * phi.mean())


def test_chord_is_its_two_losses_weighted() -> None:
    """L = (1 - μ) · L_GRPO + μ · L_SFT at a fixed μ."""
    fixed = make_trainer("chord", objective={"chord_mu": 0.25}, training={"gradients_every": 1})
    plain = make_trainer(
        "mix", objective={"sft_weight": 0.25, "grpo_weight": 0.75}, training={"gradients_every": 1}
    )
    assert metrics_of(fixed, 3) == metrics_of(plain, 3)
    moving = make_trainer("chord", objective={"chord_mu": ((0.0, 1.0), (1.0, 0.0))}).recipe
    for step in range(12):
        weights = moving.weights_at(step)
        assert_close(weights.sft, 1 - step / 12)
        assert_close(weights.sft + weights.grpo, 1.0)


# The term as reward


def test_the_score_is_added_to_the_reward_and_is_no_term() -> None:
    trainer = make_trainer(
        "shaped",
        objective={"adversarial_weight": 0.5, "sft_weight": 0.0},
        data={"held_out_demonstrations": 0},
        discriminator={"warmup_steps": 0},
    )
    metrics_of(trainer, 2)  # p_φ has learned: its score is not 0
    result = trainer.train_step()
    assert result.rollouts is not None
    assert result.judgement is not None
    assert result.judgement.expert_logprobs_T is not None
    ratios = (result.judgement.expert_logprobs_T - result.old_logprobs_T).split(
        [len(r.token_ids) for r in result.rollouts.rollouts]
    )
    shifts = [
        reward.total - reward.breakdown["length"]  # type: ignore[operator]
        for reward in result.rollouts.rewards
    ]
    assert_close(shifts, [0.5 * r.mean().item() for r in ratios])
    assert max(map(abs, shifts)) > 1e-3
    assert result.metrics["objective/adversarial_weight"] == 0.5
    assert result.metrics["objective/adversarial_token_weights"] == 0.0
    lengths = [r.breakdown["length"] or 0.0 for r in result.rollouts.rewards]
    assert_close(result.metrics["reward/length"], sum(lengths) / 12)


def test_a_shaped_reward_without_strength_is_mix_on_both_kinds_of_prompts() -> None:
    weak = make_trainer(
        "shaped", objective={"adversarial_weight": 1e-300}, data={"held_out_demonstrations": 0}
    )
    plain = make_trainer("mix-both", data={"held_out_demonstrations": 0})
    before = {n: p.clone() for n, p in plain.players.policy.state_dict().items()}
    metrics_of(weak, 3)
    metrics_of(plain, 3)
    weak_weights, plain_weights = (t.players.policy.state_dict() for t in (weak, plain))
    assert any(not torch.equal(before[n], p) for n, p in plain_weights.items())
    for name, value in plain_weights.items():
        assert_close(weak_weights[name], value)
