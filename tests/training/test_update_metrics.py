"""What a step measures, what counts in it, and where it stops."""

from dataclasses import replace

import pytest
import torch
from exact import (
    EXPERTS,
    assert_close,
    drawn,
    exact_policy,
    likelihood,
    mixed_batch,
    plain_logprobs,
    policy_logprobs,
    prompt,
    rewards,
    rollout,
    scalar,
    sequences_of,
)
from one_step import WEIGHTS, Step, in_double, recipe
from torch import nn

from uniapl.config.recipe import TermWeights
from uniapl.errors import TrainingError
from uniapl.models.adamw import adamw
from uniapl.models.packing import sequence_of
from uniapl.training.batch import StepData
from uniapl.training.update import StepTokens, step_scale
from uniapl.types import RolloutBatch

__all__ = ["in_double"]

CPU = torch.device("cpu")


def test_first_update_has_ratio_one() -> None:
    metrics = Step(mixed_batch())()
    assert metrics["policy/ratio_mean"] == 1.0
    assert metrics["policy/clip_fraction"] == 0.0


def test_metrics_by_hand() -> None:
    a = prompt(5, 6)
    batch = RolloutBatch(
        (
            rollout(a, 14, 4, sampled=[-3.0, -2.0]),
            rollout(a, 4, sampled=[-1.0]),
            rollout(a, 15, 16, 17, cut=True),
        ),
        group_size=3,
        experts=(None,),
        rewards=rewards(0.0, 1.0, 2.0),
    )
    masking = recipe(rollout={"mask_truncated": True})
    step = Step(batch, recipe_=masking)
    metrics = step()
    policy = exact_policy()
    own = [plain_logprobs(policy.model, s, 0.7).detach() for s in sequences_of(batch)[:2]]
    expert = [plain_logprobs(policy.model, sequence_of(d)).detach() for d in step.experts]
    # mean 1, deviation 1; the third is in both but, masked, in no count of the reward and of the KL
    advantages = [-1 / 1.0001, 0.0]
    assert step.judgement is not None
    assert step.judgement.credit_T is not None
    assert step.ref_logprobs_T is not None
    log_ratio = step.ref_logprobs_T[:3] - torch.cat(own)
    assert_close(metrics["objective/sft"], -torch.cat(expert).mean())
    assert_close(metrics["objective/grpo"], -(2 * advantages[0] + advantages[1]) / 3)
    assert_close(metrics["objective/adversarial"], -step.judgement.credit_T.mean())
    assert_close(metrics["policy/entropy"], -torch.cat(own).mean())
    assert_close(metrics["policy/kl_reference"], (log_ratio.exp() - 1 - log_ratio).mean())
    sampled = torch.tensor([-3.0, -2.0, -1.0])
    assert_close(metrics["policy/sampling_gap"], (torch.cat(own) - sampled).abs().mean())
    norm = torch.cat([g.flatten() for g in step.gradients.values()]).norm()
    assert_close(metrics["optimizer/grad_norm"], norm)
    # prompts 2 + 3 + 1 + 2 (none of them shared), completions 2 + 1 + 3 and 3 + 5 + 1
    assert metrics["data/trained_tokens"] == 8 + 6 + 9


@pytest.mark.parametrize("mask_truncated", [True, False])
@pytest.mark.parametrize("form", ["likelihood", "scalar"])
def test_rewarded_credited_and_penalised_tokens_are_counted_apart(
    form: str, mask_truncated: bool
) -> None:
    """A credit per token counts on a truncated rollout, one per completion does not; a mask of the reward alone."""
    batch = mixed_batch()
    made = likelihood() if form == "likelihood" else scalar()
    judgement = made.judge(batch, drawn(), policy_logprobs)
    of_run = recipe(rollout={"mask_truncated": mask_truncated})
    tokens = StepTokens.of(StepData(drawn(), batch), judgement, of_run, CPU)
    scale = step_scale(of_run, WEIGHTS, EXPERTS, tokens)
    lengths = [len(r.token_ids) for r in batch.rollouts]
    cut = 5
    assert lengths[2] == cut
    assert batch.rollouts[2].is_truncated
    # no reward: the fifth rollout (4 tokens) and the third group
    without = 4 + sum(lengths[6:9])
    masked = cut if mask_truncated else 0
    assert scale.num_rewarded == sum(lengths) - without - masked
    assert scale.num_penalised == sum(lengths) - masked
    assert scale.num_credited == sum(lengths) - (cut if form == "scalar" else 0)
    assert scale.num_sft == sum(len(d.token_ids) for d in EXPERTS)
    place = sum(lengths[:2])
    assert judgement.is_credited_T[place : place + cut].tolist() == [form == "likelihood"] * cut


def test_the_share_of_weights_that_moved() -> None:
    assert Step(mixed_batch(), moves=False)()["optimizer/moved_fraction"] == 0
    # rows of the embedding that were neither read nor predicted stay, all else moves
    moved = Step(mixed_batch(), moves=True)()["optimizer/moved_fraction"]
    assert moved is not None
    assert 0.5 < moved <= 1
    # float64 resolves 1e-16 of a weight; only what is 0 moves
    slow = recipe(optimizer={"learning_rate": 1e-30})
    lost = Step(mixed_batch(), moves=True, recipe_=slow)()["optimizer/moved_fraction"]
    assert lost is not None
    assert lost < 0.01


def test_gradient_is_clipped_after_the_norm_is_measured() -> None:
    step = Step(mixed_batch(), recipe_=recipe(optimizer={"max_grad_norm": 0.01}))
    norm = step()["optimizer/grad_norm"]
    assert norm is not None
    assert norm > 0.01
    clipped = torch.cat([g.flatten() for g in step.gradients.values()]).norm()
    assert clipped == pytest.approx(0.01, rel=1e-3)


SILENT = {
    "no term": (None, TermWeights(0.0, 0.0, 0.0, 0.0), ()),
    "equal rewards": (
        replace(mixed_batch(), rewards=rewards(*[0.5] * 12)),
        TermWeights(0.0, 1.0, 0.0, 0.0),
        (),
    ),
    "no rewards": (
        replace(mixed_batch(), rewards=rewards(*[None] * 12)),
        TermWeights(0.0, 1.0, 0.0, 0.0),
        (),
    ),
    "all cut": (
        replace(
            mixed_batch(),
            rollouts=tuple(replace(r, finish_reason="length") for r in mixed_batch().rollouts),
        ),
        TermWeights(0.0, 1.0, 0.0, 0.05),
        (),
    ),
}


@pytest.mark.parametrize(("batch", "weights", "experts"), SILENT.values(), ids=SILENT.keys())
def test_a_step_in_which_nothing_counts_moves_no_weight(
    batch: RolloutBatch | None, weights: TermWeights, experts: tuple[()]
) -> None:
    """Neither momentum of earlier steps nor weight decay: an update without a reason is none."""
    masking = recipe(rollout={"mask_truncated": True})
    step = Step(mixed_batch(), has_credit=False, recipe_=masking)
    step.trainer.optimizer = adamw(list(step.policy.parameters()), weight_decay=0.1)
    step()
    state = {n: p.detach().clone() for n, p in step.policy.named_parameters()}
    before = momentum(step.trainer.optimizer)
    assert any(m.abs().max() > 0 for m in before)

    step.batch, step.experts, step.weights = batch, list(experts), weights
    step.trainer.weights = weights
    metrics = step()
    assert all(torch.equal(p, state[name]) for name, p in step.policy.named_parameters())
    after = momentum(step.trainer.optimizer)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert metrics["optimizer/grad_norm"] == 0.0
    assert all(p.grad is None for p in step.policy.parameters())
    # and the next step that has a reason moves them again
    step.batch, step.weights = mixed_batch(), WEIGHTS
    step.ref_logprobs_T = None
    step.trainer.weights = WEIGHTS
    step()
    assert any(not torch.equal(p, state[name]) for name, p in step.policy.named_parameters())


def momentum(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return [optimizer.state[p]["exp_avg"].clone() for p in parameters]


@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_what_is_not_finite_stops_the_run_before_the_weights_change(what: str) -> None:
    step = Step(mixed_batch(), moves=True)
    before = {name: p.detach().clone() for name, p in step.policy.named_parameters()}
    if what == "loss":
        assert step.judgement is not None
        assert step.judgement.credit_T is not None
        step.judgement.credit_T[0] = torch.nan  # it counts
    else:
        parameter: nn.Parameter = next(iter(step.policy.parameters()))
        parameter.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(TrainingError, match=f"policy's {what} is (nan|inf)"):
        step()
    assert all(torch.equal(p, before[name]) for name, p in step.policy.named_parameters())
    assert all(p.grad is None for p in step.policy.parameters())
