"""The discriminator's pair loss, and A_adv, the advantage that its judgement gives to the tokens of rollouts.

`d(x, y)` is a logit per completion, high = looks like the expert. Log-ratio forms (`likelihood`, `expert`) have
k_t = log p_expert - log π_old per token, in nats (the structured discriminator of AIRL, arXiv 1710.11248). Ranking
forms (`scalar`, as in GAD, arXiv 2511.10643, and `reference`) give one logit per completion. No function raises.
"""

import torch
from torch import Tensor
from torch.nn import functional

from uniapl.objective.reductions import group_mean, group_std


def bradley_terry_loss(
    expert_logits_P: Tensor,
    rollout_logits_P: Tensor,
) -> Tensor:
    """Return -log σ(d(y*) - d(y)) of each pair: the loss of pairwise preferences, as in GAD (arXiv 2511.10643).

    Args:
        expert_logits_P: d(x, y*), [P], with gradient.
        rollout_logits_P: d(x, y) of the same prompts, [P], with gradient.

    Returns:
        [P], nats, to be averaged over pairs and minimised; log 2 at chance.
    """
    return functional.softplus(rollout_logits_P - expert_logits_P)


def pair_accuracy(expert_logits_P: Tensor, rollout_logits_P: Tensor) -> Tensor:
    """Say which of a pair ranks higher.

    Args:
        expert_logits_P: d of the completion that should rank higher, [P].
        rollout_logits_P: d of the other one, [P].

    Returns:
        [P], 1 where the first ranks higher, ½ at a tie, else 0; its mean over pairs is the accuracy.
    """
    return (1 + (expert_logits_P - rollout_logits_P).sign()) / 2


def token_credit(ratios_T: Tensor, credit_clamp: float) -> Tensor:
    """Return A_adv,t = clamp(k_t, ±c) of each token, neither centred nor scaled.

    E[A_adv,t ∇log π] is minus the gradient of KL(π ‖ p_expert) over the next token, at each prefix that the
    policy visits (discount 0), as long as the clamp does not act.

    Args:
        ratios_T: k_t, [T], nats.
        credit_clamp: c, nats, above 0.

    Returns:
        [T], nats, from -c to c.
    """
    return ratios_T.clamp(-credit_clamp, credit_clamp)


def completion_credit(
    logits_GxN: Tensor, is_counted_GxN: Tensor, running_std: Tensor | float, std_floor: float
) -> Tensor:
    """Return A_adv of forms that credit completions: (d - mean of its group) / max(group std, running std, floor).

    GAD (arXiv 2511.10643) divides by the group's deviation alone, as GRPO does with rewards. The maximum keeps the
    credit small where the rollouts of a group look alike.

    Args:
        logits_GxN: d of rollouts, [G, N], finite.
        is_counted_GxN: False leaves a rollout out of mean and deviation and gives it 0, [G, N].
        running_std: Moving average of past group deviations, in logits; 0 if there was none yet.
        std_floor: Least divisor, in logits, above 0.

    Returns:
        [G, N], in deviations; 0 in a group with one counted rollout or none.
    """
    floor = torch.as_tensor(running_std, device=logits_GxN.device).clamp(min=std_floor)
    scale = torch.maximum(group_std(logits_GxN, is_counted_GxN), floor)
    centred = logits_GxN - group_mean(logits_GxN, is_counted_GxN)
    return centred.masked_fill(~is_counted_GxN, 0.0) / scale
