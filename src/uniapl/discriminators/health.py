"""What tells a discriminator that works from one that does not: numbers about its logits."""

import math

import torch
from torch import Tensor

from uniapl.objective.adversarial import pair_accuracy
from uniapl.objective.reductions import group_correlation, mean_group_std
from uniapl.types import RolloutBatch


def spread_and_correlations(
    batch: RolloutBatch, logits_GxN: Tensor, is_counted_GxN: Tensor
) -> dict[str, float]:
    """Return how d varies inside groups, and whether it goes with length or reward there."""
    lengths = [float(len(r.token_ids)) for r in batch.rollouts]
    lengths_GxN = torch.tensor(lengths, device=logits_GxN.device).view_as(logits_GxN)
    health = {
        "discriminator/group_std": mean_group_std(logits_GxN, is_counted_GxN) or 0.0,
        "discriminator/length_correlation": group_correlation(
            logits_GxN, lengths_GxN, is_counted_GxN
        ),
    }
    if batch.rewards:
        rewards_GxN, has_reward_GxN = reward_table(batch, logits_GxN.device)
        health["discriminator/reward_correlation"] = group_correlation(
            logits_GxN, rewards_GxN, has_reward_GxN & is_counted_GxN
        )
    is_paired = torch.tensor([e is not None for e in batch.experts], device=logits_GxN.device)
    for name, groups in (("demonstration", is_paired), ("preference", ~is_paired)):
        logits = logits_GxN[groups][is_counted_GxN[groups]]
        if len(logits):
            health[f"discriminator/{name}_logit"] = logits.mean().item()
    return finite(health)


def ranking(
    expert_logits_G: Tensor, logits_GxN: Tensor, is_counted_GxN: Tensor
) -> dict[str, float]:
    """Return how often and by how much the expert ranks above rollouts of the same prompt.

    Args:
        expert_logits_G: d of the expert's completion of each paired prompt, [pairs].
        logits_GxN: d of the rollouts of these prompts, [pairs, group_size].
        is_counted_GxN: Which of them count.
    """
    experts = expert_logits_G[:, None].expand_as(logits_GxN)[is_counted_GxN]
    rollouts = logits_GxN[is_counted_GxN]
    if not len(rollouts):
        return {}
    return finite(
        {
            "discriminator/accuracy": pair_accuracy(experts, rollouts).mean().item(),
            "discriminator/margin": (experts - rollouts).mean().item(),
        }
    )


def reward_table(batch: RolloutBatch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return total rewards [groups, group_size], 0 where there is none, and whether there is one."""
    totals = [r.total for r in batch.rewards]
    values = torch.tensor([0.0 if t is None else t for t in totals], device=device)
    has_reward = torch.tensor([t is not None for t in totals], device=device)
    return values.view(-1, batch.group_size), has_reward.view(-1, batch.group_size)


def finite(values: dict[str, float]) -> dict[str, float]:
    """Leave out what is not a finite number."""
    return {name: value for name, value in values.items() if math.isfinite(value)}
