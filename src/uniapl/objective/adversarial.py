"""The discriminator's pair loss, and A_adv: what its judgement of rollouts is worth per token.

`d(x, y)` is a logit per completion, high = looks like the expert. Log-ratio forms have k_t = log p_expert - log π_old
per token, nats (the structured discriminator of AIRL, arXiv 1710.11248); the `scalar` form (GAD, arXiv 2511.10643) has
a head.
"""

import torch
from torch import Tensor
from torch.nn import functional

from uniapl.objective.reductions import group_mean, group_std


def bradley_terry_loss(
    expert_logits: Tensor,
    rollout_logits: Tensor,
) -> Tensor:
    """Return -log σ(d(y*) - d(y)) of each pair: the loss of pairwise preferences, as in GAD (arXiv 2511.10643).

    Args:
        expert_logits: d(x, y*), [P].
        rollout_logits: d(x, y) of the same prompts, [P].

    Returns:
        [P], nats, to be averaged over pairs and minimised; log 2 at chance.
    """
    return functional.softplus(rollout_logits - expert_logits)


def pair_accuracy(expert_logits: Tensor, rollout_logits: Tensor) -> Tensor:
    """Say which of a pair ranks higher.

    Args:
        expert_logits: d of the completion that should rank higher, [P].
        rollout_logits: d of the other one, [P].

    Returns:
        [P], 1 where the first ranks higher, ½ at a tie, else 0; its mean over pairs is the accuracy.
    """
    return (1 + (expert_logits - rollout_logits).sign()) / 2


def token_credit(ratios: Tensor, credit_clamp: float) -> Tensor:
    """Return A_adv,t = clamp(k_t, ±c) of each token, neither centred nor scaled.

    E[A_adv,t ∇log π] is minus the gradient of KL(π ‖ p_expert) over the next token, at each prefix that the
    policy visits (discount 0), as long as the clamp does not act.

    Args:
        ratios: k_t, [T], nats.
        credit_clamp: c, nats, above 0.

    Returns:
        [T], nats, from -c to c.
    """
    return ratios.clamp(-credit_clamp, credit_clamp)


def completion_credit(
    logits: Tensor, is_counted: Tensor, running_std: Tensor | float, std_floor: float
) -> Tensor:
    """Return A_adv of the `scalar` form: centred in its group, divided by max(group std, running std, floor).

    GAD (arXiv 2511.10643) divides by the group's deviation alone, as GRPO does with rewards.

    Args:
        logits: d of rollouts, [G, N].
        is_counted: False leaves a rollout out of mean and deviation and gives it 0, [G, N].
        running_std: Average of past group deviations; a group whose rollouts look alike stays small.
        std_floor: Least divisor, above 0.

    Returns:
        [G, N], in deviations; 0 in a group with one counted rollout or none.
    """
    floor = torch.as_tensor(running_std, device=logits.device).clamp(min=std_floor)
    scale = torch.maximum(group_std(logits, is_counted), floor)
    centred = logits - group_mean(logits, is_counted)
    return centred.masked_fill(~is_counted, 0.0) / scale
