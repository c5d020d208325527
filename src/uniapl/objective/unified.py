"""The objective of a step: every completion token carries a weight, and one loss takes them all.

    w_t = grpo_weight · A_reward / N_reward + λ · A_adv,t / N_adv
    L   = - Σ_rollout tokens min(ρ_t w_t, clip(ρ_t, 1 - clip_low, 1 + clip_high) w_t)
          + sft_weight / N_sft · Σ_expert tokens -log π_θ(y*_t) + kl_coef / N_kl · Σ k3_t

Each N counts the completion tokens of the whole step that carry the term, so micro-batches add up to the same loss
however they are cut. `_T` in a name means one value per completion token.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from uniapl.objective.policy_gradient import clipped_surrogate, importance_weights, is_clipped, k3


@dataclass(frozen=True, slots=True)
class RolloutTokens:
    """The rollout tokens of a micro-batch, or of a whole step: everything is [tokens]."""

    logprobs_T: Tensor
    """log π_θ(y_t), with gradient, nats."""
    old_logprobs_T: Tensor
    """log π_old(y_t), under the weights that sampled; `logprobs_T.detach()` before the first update."""
    sampling_logprobs_T: Tensor
    """log π(y_t) as the generator computed it."""
    reward_advantages_T: Tensor
    """A_reward of the token's completion."""
    is_rewarded_T: Tensor
    """True where the reward counts; N_reward counts them."""
    credit_T: Tensor | None
    """A_adv,t; None without a discriminator."""
    is_credited_T: Tensor | None
    """True where the discriminator's credit counts; N_adv counts them."""
    is_penalised_T: Tensor
    """True where the KL penalty counts; N_kl counts them."""
    ref_logprobs_T: Tensor | None = None
    """The reference's; None without the KL term."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What is the same for all micro-batches of a step: the terms' weights and the counts of their tokens."""

    sft_weight: float = 0.0
    grpo_weight: float = 0.0
    adversarial_weight: float = 0.0
    """λ as it acts."""
    kl_coef: float = 0.0
    num_sft: int = 0
    num_rewarded: int = 0
    num_credited: int = 0
    num_penalised: int = 0
    clip_low: float = 0.2
    clip_high: float = 0.2
    importance_cap: float | None = None
    """Truncated importance weights min(π_old / π_sampled, cap) on every w_t; None: none."""


@dataclass(slots=True)
class Objective:
    """A micro-batch's share of the step's loss, and what was measured on the way."""

    loss: Tensor
    """The share of L; the shares of a step sum to L."""
    terms: dict[str, Tensor]
    """`sft`, `grpo`, `adversarial`, `kl` where they act, each with the other terms left out. They sum to `loss` where
    nothing is clipped: the clip looks at the whole weight, so beyond it no part belongs to one term."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Sums over tokens without gradient, float64; a step's metrics are their totals over counts."""


def unified_objective(
    experts_T: Tensor | None, rollouts: RolloutTokens | None, scale: Scale
) -> Objective:
    """Compute a micro-batch's share of the step's loss, its terms and its metrics in one go.

    Args:
        experts_T: log π_θ(y*_t) of the expert's tokens, with gradient; None without any.
        rollouts: The rollout tokens; None without any.
        scale: Weights and counts of the whole step.
    """
    terms: dict[str, Tensor] = {}
    sums: dict[str, Tensor] = {}
    losses: list[Tensor] = []
    if experts_T is not None:
        nll = -experts_T.sum()
        sums["sft"] = nll
        if scale.sft_weight:
            terms["sft"] = nll * (scale.sft_weight / max(scale.num_sft, 1))
            losses.append(terms["sft"])
    if rollouts is not None:
        _add_rollouts(rollouts, scale, losses, terms, sums)
    loss = sum(losses[1:], start=losses[0])
    sums["loss"] = loss
    return Objective(loss, terms, {name: value.detach().double() for name, value in sums.items()})


def _add_rollouts(
    tokens: RolloutTokens,
    scale: Scale,
    losses: list[Tensor],
    terms: dict[str, Tensor],
    sums: dict[str, Tensor],
) -> None:
    """Add the surrogate on w_t and the KL penalty, with their metrics."""
    reward_weights_T, weights_T = token_weights(tokens, scale)
    clip = (scale.clip_low, scale.clip_high)
    now, old = tokens.logprobs_T, tokens.old_logprobs_T
    surrogate = clipped_surrogate(now, old, weights_T, *clip)
    losses.append(-surrogate.sum())
    terms["grpo"] = -clipped_surrogate(now, old, reward_weights_T, *clip).sum()
    if tokens.credit_T is not None:
        own_T = weights_T - reward_weights_T
        terms["adversarial"] = -clipped_surrogate(now, old, own_T, *clip).sum()
    with torch.no_grad():
        counted = tokens.is_penalised_T
        ratio_T = (now - old).exp()
        sums["grpo"] = -(ratio_T * tokens.reward_advantages_T)[tokens.is_rewarded_T].sum()
        sums["ratio"] = ratio_T[counted].sum()
        sums["entropy"] = -old[counted].sum()
        sums["gap"] = (old - tokens.sampling_logprobs_T).abs()[counted].sum()
        sums["clipped"] = is_clipped(now, old, weights_T, *clip).sum()
        sums["weighted"] = (weights_T != 0).sum()
        if tokens.credit_T is not None and tokens.is_credited_T is not None:
            sums["adversarial"] = -(ratio_T * tokens.credit_T)[tokens.is_credited_T].sum()
    if tokens.ref_logprobs_T is not None:
        kl = k3(now, tokens.ref_logprobs_T)[counted].sum()
        sums["kl"] = kl
        if scale.kl_coef:
            terms["kl"] = kl * (scale.kl_coef / max(scale.num_penalised, 1))
            losses.append(terms["kl"])


def token_weights(tokens: RolloutTokens, scale: Scale) -> tuple[Tensor, Tensor]:
    """Return the reward's part of w_t and the whole w_t, [tokens] each.

    A token that does not count for a term gets nothing of it.
    """
    rewards_T = tokens.reward_advantages_T.masked_fill(~tokens.is_rewarded_T, 0.0)
    reward_weights_T = scale.grpo_weight * rewards_T / max(scale.num_rewarded, 1)
    weights_T = reward_weights_T
    if tokens.credit_T is not None:
        assert tokens.is_credited_T is not None
        credit_T = tokens.credit_T.masked_fill(~tokens.is_credited_T, 0.0)
        weights_T = weights_T + scale.adversarial_weight * credit_T / max(scale.num_credited, 1)
    if scale.importance_cap:
        importance_T = importance_weights(
            tokens.old_logprobs_T, tokens.sampling_logprobs_T, scale.importance_cap
        )
        return reward_weights_T * importance_T, weights_T * importance_T
    return reward_weights_T, weights_T
