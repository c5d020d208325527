"""What an update measures, and where it stops."""

import pytest
import torch
from exact import (
    assert_close,
    exact_policy,
    mixed_batch,
    plain_logprobs,
    prompt,
    rewards,
    rollout,
)
from one_step import Step, in_double, settings
from uniapl.training.rollout_batch import RolloutBatch, sequence_of

from uniapl.training.update import (
    StepWeights,
    no_gradient_logprobs,
)
from uniapl.types import TrainingError

__all__ = ["in_double"]


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
