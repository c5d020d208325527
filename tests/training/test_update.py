import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from exact import (
    assert_close,
    assert_same_gradients,
    config,
    exact_policy,
    gradients,
    mixed_batch,
    plain_logprobs,
    rewards,
    rollout,
)
from one_step import WEIGHTS, Step, demonstrations, in_double, settings
from torch import Tensor
from uniapl.training.rollout_batch import RolloutBatch, sequence_of

from uniapl.models.language_model import LanguageModel
from uniapl.training.update import (
    StepWeights,
    old_logprobs,
    scores_while_updating,
)

__all__ = ["in_double"]


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


@pytest.mark.parametrize("credit", ["token", "completion"])
@pytest.mark.parametrize(
    ("dtype", "old_logprobs", "is_computed"),
    [
        ("float32", "auto", False),
        ("bfloat16", "auto", True),
        ("float32", "computed", True),
        ("bfloat16", "sampled", False),
    ],
)
def test_rollouts_are_scored_while_updating_where_that_forward_is_needed(
    dtype: str, old_logprobs: str, is_computed: bool, credit: str
) -> None:
    given = {"credit": credit, "old_logprobs": old_logprobs}
    of_run = config(model={"dtype": dtype}, discriminator=given)
    assert scores_while_updating(of_run) is (is_computed and credit == "token")
    scalar = config(model={"dtype": dtype}, discriminator={"form": "scalar"})
    assert not scores_while_updating(scalar)
