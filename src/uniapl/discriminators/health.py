"""Metrics of what a discriminator says of rollouts: they tell one that works from one that does not."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from uniapl.discriminators.protocol import Judgement
from uniapl.experts import repetition_fraction, words
from uniapl.models.packing import per_token, sequence_of
from uniapl.objective.adversarial import pair_accuracy
from uniapl.objective.reductions import group_correlation, mean_group_std, sequence_mean
from uniapl.types import RolloutBatch


def step_health(
    batch: RolloutBatch,
    judgement: Judgement,
    old_logprobs_T: Tensor,
    held_out: Mapping[str, float],
) -> dict[str, float]:
    """Return `discriminator/*` metrics of a step: how d varies inside groups, and with what it correlates there.

    Args:
        batch: The step's rollouts.
        judgement: What was said of them.
        old_logprobs_T: log π_old of their tokens, nats.
        held_out: What `Discriminator.measure` found.

    Returns:
        Means over judged rollouts, or over credited tokens where the metric is a log-ratio (nats per token).
        Correlations are pooled over groups. What has no finite value is left out.
    """
    logits_GxN = completion_logits(batch, judgement, old_logprobs_T)
    is_judged_GxN = judged_completions(batch, judgement)
    lengths = [float(len(r.token_ids)) for r in batch.rollouts]
    repetition = [repetition_fraction(words(r.answer)) for r in batch.rollouts]
    lengths_GxN, repetition_GxN = (
        torch.tensor(values, device=logits_GxN.device).view_as(logits_GxN)
        for values in (lengths, repetition)
    )
    found: dict[str, float | None] = {
        **judgement.health,
        **held_out,
        "discriminator/group_std": mean_group_std(logits_GxN, is_judged_GxN),
        "discriminator/length_correlation": group_correlation(
            logits_GxN, lengths_GxN, is_judged_GxN
        ),
        "discriminator/repetition_correlation": group_correlation(
            logits_GxN, repetition_GxN, is_judged_GxN
        ),
    }
    if batch.rewards:
        rewards_GxN, has_reward_GxN = reward_table(batch, logits_GxN.device)
        found["discriminator/reward_correlation"] = group_correlation(
            logits_GxN, rewards_GxN, has_reward_GxN & is_judged_GxN
        )
    if judgement.expert_logprobs_T is not None:
        ratios_T = (judgement.expert_logprobs_T - old_logprobs_T)[judgement.is_credited_T]
        found["discriminator/log_ratio"] = ratios_T.mean().item()
        if "discriminator/held_out_log_ratio" in held_out:
            found["discriminator/margin"] = (
                held_out["discriminator/held_out_log_ratio"] - ratios_T.mean().item()
            )
    is_paired = torch.tensor([e is not None for e in batch.experts], device=logits_GxN.device)
    for name, groups in (("demonstration", is_paired), ("preference", ~is_paired)):
        logits = logits_GxN[groups][is_judged_GxN[groups]]
        if len(logits):
            found[f"discriminator/{name}_logit"] = logits.mean().item()
    return finite(found)


def completion_logits(batch: RolloutBatch, judgement: Judgement, old_logprobs_T: Tensor) -> Tensor:
    """Return d of each rollout, [groups, group_size]: in a log-ratio form the mean over its tokens, nats."""
    if judgement.logits_GxN is not None:
        return judgement.logits_GxN
    assert judgement.expert_logprobs_T is not None
    sequences = list(map(sequence_of, batch.rollouts))
    index = torch.arange(len(sequences), device=old_logprobs_T.device)
    ratios_T = judgement.expert_logprobs_T - old_logprobs_T
    means = sequence_mean(ratios_T, per_token(index, sequences), len(sequences))
    return means.view(-1, batch.group_size)


def judged_completions(batch: RolloutBatch, judgement: Judgement) -> Tensor:
    """Return True for each rollout whose tokens carry credit, [groups, group_size]."""
    ends = torch.tensor([len(r.token_ids) for r in batch.rollouts]).cumsum(0) - 1
    last = ends.to(judgement.is_credited_T.device)
    return judgement.is_credited_T[last].view(-1, batch.group_size)


def ranking(
    expert_logits_P: Tensor, logits_PxN: Tensor, is_counted_PxN: Tensor
) -> dict[str, float]:
    """Return how often and by how much the expert ranks above rollouts of the same prompt.

    Args:
        expert_logits_P: d of the expert's completion of each paired prompt, [prompts].
        logits_PxN: d of the rollouts of these prompts, [prompts, group_size].
        is_counted_PxN: Which of the rollouts count, [prompts, group_size].

    Returns:
        `accuracy` (a tie counts ½) and `pair_margin` (logits), means over pairs of an expert's completion and a counted
        rollout; nothing if no rollout counts.
    """
    experts = expert_logits_P[:, None].expand_as(logits_PxN)[is_counted_PxN]
    rollouts = logits_PxN[is_counted_PxN]
    if not len(rollouts):
        return {}
    accuracy = pair_accuracy(experts, rollouts).mean().item()
    return finite({"accuracy": accuracy, "pair_margin": (experts - rollouts).mean().item()})


def reward_table(batch: RolloutBatch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return total rewards [groups, group_size], 0 where there is none, and whether there is one."""
    totals = [r.total for r in batch.rewards]
    values = torch.tensor([0.0 if t is None else t for t in totals], device=device)
    has_reward = torch.tensor([t is not None for t in totals], device=device)
    return values.view(-1, batch.group_size), has_reward.view(-1, batch.group_size)


def finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """Return the values that are finite numbers."""
    return {n: value for n, value in values.items() if value is not None and math.isfinite(value)}
