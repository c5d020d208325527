import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from exact import (
    RecordingOptimizer,
    assert_close,
    assert_same_gradients,
    config,
    demonstration,
    double,
    exact_policy,
    gradients,
    mixed_batch,
    plain_logprobs,
    prompt,
    rewards,
    rollout,
)
from torch import Tensor

from uniapl.config.schema import Config
from uniapl.models.language_model import LanguageModel
from uniapl.training.rollout_batch import RolloutBatch, sequence_of
from uniapl.training.update import (
    PolicyUpdate,
    StepWeights,
    no_gradient_logprobs,
    old_logprobs,
    weigh_tokens,
)
from uniapl.types import Demonstration, TrainingError

WEIGHTS = StepWeights(sft=0.3, grpo=1.0, adversarial=0.4, kl=0.05)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with double():
        yield


def settings(micro_batch_tokens: int = 10_000, **rollout_settings: Any) -> Config:
    return config(
        rollout={"temperature": 0.7, **rollout_settings},
        objective={"clip_low": 0.1, "clip_high": 0.2},
        training={"steps": 10, "micro_batch_tokens": micro_batch_tokens},
    )


def demonstrations() -> list[Demonstration]:
    """Of new prompts, and one of a prompt that is rolled out too."""
    return [
        demonstration(prompt(5, 6, 7), 35, 36, 4),
        demonstration(prompt(20), 21, 22, 23, 24, 4),
        demonstration(prompt(20, 21), 4),
    ]


def some_credit(batch: RolloutBatch) -> Tensor:
    return torch.randn(batch.num_rollout_tokens, generator=torch.Generator().manual_seed(3))


class Step:
    """One policy, its optimiser and one batch, updated as often as asked."""

    def __init__(
        self,
        batch: RolloutBatch | None,
        *,
        weights: StepWeights = WEIGHTS,
        experts: Sequence[Demonstration] | None = None,
        has_credit: bool = True,
        learning_rate: float = 0.0,
        config_: Config | None = None,
    ) -> None:
        self.config = config_ or settings()
        self.batch, self.weights = batch, weights
        self.experts = demonstrations() if experts is None else list(experts)
        self.policy = exact_policy()
        self.optimizer = RecordingOptimizer(self.policy, learning_rate)
        self.update = PolicyUpdate(self.config, self.policy, self.optimizer)
        self.credit = some_credit(batch) if batch and has_credit else None
        self.tokens = weigh_tokens(batch, self.credit, weights, self.config, CPU) if batch else None
        if batch and weights.kl:
            batch.ref_logprobs = no_gradient_logprobs(
                exact_policy(seed=1), batch.rollout_sequences, 100, self.config.rollout.temperature
            )

    def __call__(self, *, is_first_pass: bool = True) -> dict[str, float | None]:
        return self.update(
            self.experts, self.batch, self.tokens, self.weights, is_first_pass=is_first_pass
        )

    @property
    def gradients(self) -> dict[str, Tensor]:
        return self.optimizer.last


def group_advantages(batch: RolloutBatch) -> list[float | None]:
    found: list[float | None] = []
    for start in range(0, len(batch.rollouts), batch.group_size):
        totals = [r.total for r in batch.rewards[start : start + batch.group_size]]
        known = [t for t in totals if t is not None]
        for total in totals:
            if total is None:
                found.append(None)
            elif len(set(known)) == 1:
                found.append(0.0)
            else:
                spread = statistics.stdev(known) + 1e-4
                found.append((total - statistics.mean(known)) / spread)
    return found


def separate_losses(
    step: Step, policy: LanguageModel, old: Sequence[Tensor] | None
) -> tuple[dict[str, Tensor], list[bool]]:
    """The three terms and the KL, each written for itself over plain forwards, token by token.

    The clip is the only thing they share: it is decided on the sum of their weights. Returns the losses
    and whether each weighted token is clipped.
    """
    batch, weights, config_ = step.batch, step.weights, step.config
    assert batch is not None
    assert step.credit is not None
    advantages = group_advantages(batch)
    is_masked = [r.is_truncated and batch.mask_truncated for r in batch.rollouts]
    lengths = [len(r.token_ids) for r in batch.rollouts]
    counted = [n for n, masked in zip(lengths, is_masked, strict=True) if not masked]
    num_reward = sum(
        n
        for n, masked, advantage in zip(lengths, is_masked, advantages, strict=True)
        if not masked and advantage is not None
    )
    losses = {name: torch.zeros(()) for name in ("sft", "grpo", "adversarial", "kl")}
    clipped: list[bool] = []
    flat = 0
    for i, sample in enumerate(batch.rollouts):
        now = plain_logprobs(policy.model, sequence_of(sample), config_.rollout.temperature)
        before = now.detach() if old is None else old[i]
        for t in range(len(now)):
            place, flat = flat, flat + 1
            if is_masked[i]:
                continue
            advantage = advantages[i]
            reward_part = 0.0 if advantage is None else weights.grpo * advantage / num_reward
            expert_part = weights.adversarial * step.credit[place].item() / sum(counted)
            importance = 1.0
            if cap := config_.rollout.importance_cap:
                importance = min(math.exp(before[t].item() - sample.sampling_logprobs[t]), cap)
            ratio = (now[t] - before[t]).exp()
            weight = (reward_part + expert_part) * importance
            highest, lowest = 1 + config_.objective.clip_high, 1 - config_.objective.clip_low
            is_clipped = (weight > 0 and ratio > highest) or (weight < 0 and ratio < lowest)
            if is_clipped:
                ratio = torch.tensor(highest if weight > 0 else lowest)
            if weight:
                clipped.append(is_clipped)
            losses["grpo"] = losses["grpo"] - ratio * reward_part * importance
            losses["adversarial"] = losses["adversarial"] - ratio * expert_part * importance
            if batch.ref_logprobs is not None:
                log_ratio = batch.ref_logprobs[place] - now[t]
                k3 = log_ratio.exp() - 1 - log_ratio
                losses["kl"] = losses["kl"] + weights.kl / sum(counted) * k3
    num_sft = sum(len(d.token_ids) for d in step.experts)
    for expert in step.experts:
        logprobs = plain_logprobs(policy.model, sequence_of(expert))
        losses["sft"] = losses["sft"] - weights.sft / num_sft * logprobs.sum()
    return losses, clipped


def reference(
    step: Step, policy: LanguageModel, old: Sequence[Tensor] | None = None
) -> tuple[float, dict[str, Tensor], list[bool]]:
    """Sum of the separate losses and of their separately computed gradients."""
    losses, clipped = separate_losses(step, policy, old)
    total: dict[str, Tensor] = {}
    for loss in losses.values():
        loss.backward(retain_graph=True)  # the rollouts' terms share their forwards
        for name, gradient in gradients(policy).items():
            total[name] = total[name] + gradient if name in total else gradient
    return sum(loss.item() for loss in losses.values()), total, clipped


@pytest.mark.parametrize("micro_batch_tokens", [1, 30, 10_000])
@pytest.mark.parametrize("mask_truncated", [True, False])
def test_mixed_step_equals_separately_written_losses(
    mask_truncated: bool, micro_batch_tokens: int
) -> None:
    batch = mixed_batch(mask_truncated=mask_truncated)
    step = Step(batch, config_=settings(micro_batch_tokens))
    metrics = step()
    assert step.optimizer.num_steps == 1
    loss, expected, _ = reference(step, exact_policy())
    assert_close(metrics["objective/loss"], loss)
    assert_same_gradients(step.gradients, expected)


@pytest.mark.parametrize("micro_batch_tokens", [25, 10_000])
def test_second_pass_equals_separately_written_losses(micro_batch_tokens: int) -> None:
    batch = mixed_batch()
    step = Step(batch, learning_rate=0.05, config_=settings(micro_batch_tokens))
    start = exact_policy()
    old = [plain_logprobs(start.model, s, 0.7).detach() for s in batch.rollout_sequences]
    step()
    kept = batch.old_logprobs
    assert kept is not None
    assert_close(kept, torch.cat(old))

    now = step.policy.trainable_copy()
    metrics = step(is_first_pass=False)
    loss, expected, clipped = reference(step, now, old)
    assert_close(metrics["objective/loss"], loss)
    assert_same_gradients(step.gradients, expected)
    assert 0 < sum(clipped) < len(clipped)
    assert_close(metrics["policy/clip_fraction"], sum(clipped) / len(clipped))
    assert_close(kept, torch.cat(old))


def test_importance_weights_act_up_to_the_cap() -> None:
    batch = mixed_batch()
    generator = torch.Generator().manual_seed(5)
    batch.rollouts = [
        replace(
            r,
            sampling_logprobs=tuple(
                (torch.rand(len(r.token_ids), generator=generator) * -8).tolist()
            ),
        )
        for r in batch.rollouts
    ]
    step = Step(batch, config_=settings(importance_cap=1.5))
    metrics = step()
    loss, expected, _ = reference(step, exact_policy())
    assert_close(metrics["objective/loss"], loss)
    assert_same_gradients(step.gradients, expected)
    without = run(mixed_batch())
    assert any((g - without[name]).abs().max() > 1e-3 for name, g in step.gradients.items())


def test_one_micro_batch_equals_many() -> None:
    results = []
    for tokens in (1, 17, 10_000):
        step = Step(mixed_batch(), config_=settings(tokens))
        metrics = step()
        del metrics["trained_tokens"]
        results.append((metrics, step.gradients))
    for metrics, found in results[1:]:
        for name, value in results[0][0].items():
            assert_close(metrics[name], value)
        assert_same_gradients(found, results[0][1])


def minus(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: first[name] - second[name] for name in first}


def run(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
    step = Step(*args, **kwargs)
    step()
    return step.gradients


def test_no_term_dilutes_another() -> None:
    both = run(mixed_batch())
    rollouts_only = run(mixed_batch(), weights=replace(WEIGHTS, sft=0.0))
    expert_only = run(None)
    assert_same_gradients(minus(both, rollouts_only), expert_only)
    # the same demonstrations twice: the mean over their tokens is the same
    twice = run(mixed_batch(), experts=[*demonstrations(), *demonstrations()])
    assert_same_gradients(twice, both)


def test_masked_truncation_enters_no_count_and_no_term() -> None:
    """Another text, three times as long, in place of the masked one changes nothing."""
    batch, other = mixed_batch(), mixed_batch()
    cut = batch.rollouts[2]
    assert cut.is_truncated
    longer = rollout(cut.prompt, *range(14, 29), cut=True)
    other.rollouts = [*other.rollouts[:2], longer, *other.rollouts[3:]]
    steps = []
    for one in (batch, other):
        step = Step(one, has_credit=False)
        metrics = step()
        del metrics["trained_tokens"]
        steps.append((metrics, step.gradients))
    assert steps[0][0].keys() == steps[1][0].keys()
    for name, value in steps[0][0].items():
        if value is None:
            assert steps[1][0][name] is None
        else:
            assert_close(steps[1][0][name], value)
    assert_same_gradients(steps[1][1], steps[0][1])


def only_rollouts(**changes: float) -> StepWeights:
    return replace(StepWeights(sft=0.0, grpo=1.0, adversarial=0.4, kl=0.0), **changes)


def assert_exactly_zero(found: dict[str, Tensor]) -> None:
    assert all(torch.count_nonzero(g) == 0 for g in found.values())


@pytest.mark.parametrize("reward", [0.0, 0.1, 1 / 3, -0.7])
def test_equal_rewards_give_exactly_zero_gradient(reward: float) -> None:
    batch = mixed_batch()
    batch.rewards = rewards(*[reward] * 12)
    assert_exactly_zero(run(batch, weights=only_rollouts(), has_credit=False))


def test_no_rewards_at_all_leave_only_the_discriminator() -> None:
    batch = mixed_batch()
    batch.rewards = rewards(*[None] * 12)
    assert_exactly_zero(run(batch, weights=only_rollouts(), has_credit=False))
    without_reward_term = run(mixed_batch(), weights=only_rollouts(grpo=0.0))
    batch = mixed_batch()
    batch.rewards = rewards(*[None] * 12)
    assert_same_gradients(run(batch, weights=only_rollouts()), without_reward_term)


def test_all_truncated_is_zero_and_finite() -> None:
    batch = mixed_batch()
    batch.rollouts = [replace(r, finish_reason="length") for r in batch.rollouts]
    step = Step(batch, weights=only_rollouts(kl=0.05))
    metrics = step()
    assert_exactly_zero(step.gradients)
    assert metrics["objective/loss"] == 0.0
    assert metrics["policy/entropy"] is None
    with_experts = run(batch, weights=replace(WEIGHTS))
    assert_same_gradients(with_experts, run(None))


def test_discriminator_at_weight_zero_changes_nothing() -> None:
    with_credit = run(mixed_batch(), weights=replace(WEIGHTS, adversarial=0.0))
    without = run(mixed_batch(), weights=replace(WEIGHTS, adversarial=0.0), has_credit=False)
    assert all(torch.equal(with_credit[name], without[name]) for name in without)


@pytest.mark.parametrize(
    ("dtype", "source", "is_sampled"),
    [
        ("float32", "auto", True),
        ("bfloat16", "auto", False),
        ("bfloat16", "sampled", True),
        ("float32", "computed", False),
    ],
)
def test_old_logprobs_are_sampled_or_computed(dtype: str, source: str, is_sampled: bool) -> None:
    batch, policy = mixed_batch(), exact_policy()
    settings_ = config(
        model={"dtype": dtype},
        discriminator={"old_logprobs": source},
        rollout={"temperature": 0.7},
        training={"micro_batch_tokens": 20},
    )
    actual = old_logprobs(policy, batch, settings_)
    plain = [plain_logprobs(policy.model, s, 0.7).detach() for s in batch.sequences]
    count = batch.num_rollout_tokens
    if is_sampled:
        assert actual[:count].tolist() == [-1.0] * count  # what the hand-made rollouts say
    else:
        assert_close(actual[:count], torch.cat(plain[: len(batch.rollouts)]))
    assert_close(actual[count:-3], torch.cat(plain[len(batch.rollouts) : -1]))
    assert actual[-3:].isnan().all()  # the expert without a pair


def test_first_pass_has_ratio_one_and_keeps_the_experts_old_logprobs() -> None:
    batch = mixed_batch()
    # as the likelihood form leaves them: rollouts and experts, computed in another packing
    batch.old_logprobs = no_gradient_logprobs(exact_policy(), batch.sequences, 20, 0.7)
    before = batch.old_logprobs.clone()
    assert_close(
        before,
        torch.cat([plain_logprobs(exact_policy().model, s, 0.7) for s in batch.sequences]).detach(),
    )
    batch.old_logprobs[: batch.num_rollout_tokens] += 1e-3
    step = Step(batch)
    metrics = step()
    assert metrics["policy/ratio_mean"] == 1.0
    assert metrics["policy/clip_fraction"] == 0.0
    assert_close(batch.old_logprobs, before)


def test_metrics_by_hand() -> None:
    a = prompt(5, 6)
    batch = RolloutBatch(
        [
            rollout(a, 14, 4, sampled=[-3.0, -2.0]),
            rollout(a, 4, sampled=[-1.0]),
            rollout(a, 15, 16, 17, cut=True),
        ],
        group_size=3,
        experts=[],
        num_pairs=0,
        mask_truncated=True,
        rewards=rewards(0.0, 1.0, 2.0),
    )
    step = Step(batch)
    metrics = step()
    policy = exact_policy()
    own = [plain_logprobs(policy.model, s, 0.7).detach() for s in batch.rollout_sequences[:2]]
    expert = [plain_logprobs(policy.model, sequence_of(d)).detach() for d in step.experts]
    # mean 1, deviation 1; the third is in both but, masked, in no count
    advantages = [-1 / 1.0001, 0.0]
    assert step.credit is not None
    assert batch.ref_logprobs is not None
    log_ratio = batch.ref_logprobs[:3] - torch.cat(own)
    assert_close(metrics["objective/sft"], -torch.cat(expert).mean())
    assert_close(metrics["objective/grpo"], -(2 * advantages[0] + advantages[1]) / 3)
    assert_close(metrics["objective/adversarial"], -step.credit[:3].mean())
    assert_close(metrics["policy/entropy"], -torch.cat(own).mean())
    assert_close(metrics["policy/kl_reference"], (log_ratio.exp() - 1 - log_ratio).mean())
    sampled = torch.tensor([-3.0, -2.0, -1.0])
    assert_close(metrics["policy/sampling_gap"], (torch.cat(own) - sampled).abs().mean())
    norm = torch.cat([g.flatten() for g in step.gradients.values()]).norm()
    assert_close(metrics["optimizer/grad_norm"], norm)
    # prompts 2 + 3 + 1 + 2 (none of them shared), completions 2 + 1 + 3 and 3 + 5 + 1
    assert metrics["trained_tokens"] == 8 + 6 + 9


def test_the_share_of_weights_that_moved() -> None:
    assert Step(mixed_batch(), learning_rate=0.0)()["optimizer/moved_fraction"] == 0
    # rows of the embedding that were neither read nor predicted stay, all else moves
    moved = Step(mixed_batch(), learning_rate=0.1)()["optimizer/moved_fraction"]
    assert moved is not None
    assert 0.5 < moved <= 1
    # float64 resolves 1e-16 of a weight; only what is 0 moves
    lost = Step(mixed_batch(), learning_rate=1e-30)()["optimizer/moved_fraction"]
    assert lost is not None
    assert lost < 0.01


def test_gradient_is_clipped_after_the_norm_is_measured() -> None:
    clipping = settings().model_copy(
        update={"optimizer": settings().optimizer.model_copy(update={"max_grad_norm": 0.01})}
    )
    step = Step(mixed_batch(), config_=clipping)
    norm = step()["optimizer/grad_norm"]
    assert norm is not None
    assert norm > 0.01
    clipped = torch.cat([g.flatten() for g in step.gradients.values()]).norm()
    assert clipped == pytest.approx(0.01, rel=1e-3)


def test_a_step_without_any_term_takes_no_step() -> None:
    step = Step(None, weights=StepWeights(0.0, 0.0, 0.0, 0.0))
    metrics = step()
    assert step.optimizer.num_steps == 0
    assert metrics["objective/loss"] is None


@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_what_is_not_finite_stops_the_run_before_the_weights_change(what: str) -> None:
    step = Step(mixed_batch(), learning_rate=0.1)
    before = {name: p.detach().clone() for name, p in step.policy.named_parameters()}
    if what == "loss":
        assert step.tokens is not None
        step.tokens.weights[0] = torch.nan
    else:
        parameter = next(iter(step.policy.parameters()))
        parameter.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(TrainingError, match=f"policy's {what} is (nan|inf)"):
        step()
    assert all(torch.equal(p, before[name]) for name, p in step.policy.named_parameters())
    assert all(p.grad is None for p in step.policy.parameters())
