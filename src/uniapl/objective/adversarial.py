"""The discriminator's pair loss, and A_adv: what its judgement of rollouts is worth per token.

`d(x, y)` is a logit per completion, high = looks like the expert. Log-ratio forms have k_t = log p_expert - log π_old
per token, nats; the `scalar` form (GAD, arXiv 2511.10643) has a head.
"""

import torch
from torch import Tensor
from torch.nn import functional

from uniapl.objective.reductions import group_mean, group_std


def bradley_terry_loss(
    expert_logits: Tensor,
    rollout_logits: Tensor,
    label_smoothing: float = 0.0,
    logit_penalty: float = 0.0,
) -> Tensor:
    """-(1-s)·log σ(Δ) - s·log σ(-Δ) + ρ·(d(y*)² + d(y)²) per pair, Δ = d(y*) - d(y).

    Args:
        expert_logits: d(x, y*) of each pair.
        rollout_logits: d(x, y) of each pair, same prompt.
        label_smoothing: s.
        logit_penalty: ρ.

    Returns:
        [pairs], log 2 at chance (without penalty).
    """
    margin = expert_logits - rollout_logits
    loss = (1 - label_smoothing) * functional.softplus(-margin)
    loss = loss + label_smoothing * functional.softplus(margin)
    return loss + logit_penalty * (expert_logits.square() + rollout_logits.square())


def pair_accuracy(expert_logits: Tensor, rollout_logits: Tensor) -> Tensor:
    """1 where the expert's completion ranks higher, ½ at a tie, else 0: [pairs]."""
    return (1 + (expert_logits - rollout_logits).sign()) / 2


def token_credit(ratios: Tensor, credit_clamp: float) -> Tensor:
    """A_adv,t = clamp(k_t, ±c), per token, neither centred nor scaled.

    E[A_adv,t ∇log π] is minus the gradient of KL(π ‖ p_φ) over the next token, at each prefix that the
    policy visits (discount 0), as long as the clamp does not act.
    """
    return ratios.clamp(-credit_clamp, credit_clamp)


def centred_credit(values: Tensor, is_counted: Tensor) -> Tensor:
    """Values per completion, centred in their group.

    Args:
        values: [groups, group_size].
        is_counted: False leaves a rollout out of the mean and gives it 0.
    """
    return (values - group_mean(values, is_counted)).masked_fill(~is_counted, 0.0)


def completion_credit(
    logits: Tensor, is_counted: Tensor, running_std: Tensor | float, std_floor: float
) -> Tensor:
    """A_adv of the `scalar` form: centred in its group, divided by max(group std, running std, floor).

    Args:
        logits: d of rollouts, [groups, group_size].
        is_counted: False leaves a rollout out of mean and deviation and gives it 0.
        running_std: Average of past group deviations; a group whose rollouts look alike stays small.
        std_floor: Least divisor.
    """
    floor = torch.as_tensor(running_std, device=logits.device).clamp(min=std_floor)
    scale = torch.maximum(group_std(logits, is_counted), floor)
    return centred_credit(logits, is_counted) / scale
