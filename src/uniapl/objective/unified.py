"""The objective of a step: every completion token carries a weight, and one loss takes them all.

    w_t = grpo_weight · A_reward / N_reward + λ · A_adv,t / N_adv
    L   = - Σ_rollout tokens min(ρ_t w_t, clip(ρ_t, 1 - clip_low, 1 + clip_high) w_t)
          + sft_weight / N_sft · Σ_expert tokens -φ_t log π_θ(y*_t) + kl_coef / N_kl · Σ k3_t

Each N counts the tokens of the whole step that carry the term, so micro-batches add up to the same loss however they
are cut. L is in nats per token, but for the weights; it is minimised. The clip is PPO's (arXiv 1707.06347), on the
weight of both terms together.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from uniapl.objective.demonstrations import phi_weights
from uniapl.objective.policy_gradient import (
    cispo_surrogate,
    importance_weights,
    is_ratio_clipped,
    k3,
    ratio_surrogate,
    sequence_ratio,
    token_ratio,
)
from uniapl.objective.reductions import sequence_sum

DUAL_CLIP = 3.0
"""Ratio up to which a negative weight acts: PPO alone leaves it unbounded (dual clip, arXiv 1912.09729)."""


@dataclass(frozen=True, slots=True)
class RolloutTokens:
    """The rollout tokens of a micro-batch: everything that ends in `_T` is [T]."""

    logprobs_T: Tensor
    """log π_θ(y_t), nats, with gradient."""
    old_logprobs_T: Tensor
    """log π_old(y_t), nats, under the weights that sampled; `logprobs_T.detach()` where those are the policy's."""
    sampling_logprobs_T: Tensor
    """log π(y_t) as the generator computed it, nats."""
    reward_advantages_T: Tensor
    """A_reward of the token's completion."""
    is_rewarded_T: Tensor
    """True where the reward counts: N_reward counts these tokens."""
    is_penalised_T: Tensor
    """True where the KL penalty counts: N_kl counts these tokens."""
    credit_T: Tensor | None = None
    """A_adv,t; None without a discriminator."""
    is_credited_T: Tensor | None = None
    """True where the discriminator's credit counts: N_adv counts these tokens."""
    ref_logprobs_T: Tensor | None = None
    """The reference's log-probs, nats; None without the KL term."""
    sequence_index_T: Tensor | None = None
    """The token's completion; only a ratio per sequence asks for it."""
    num_sequences: int = 0


@dataclass(frozen=True, slots=True)
class Scale:
    """What is the same for all micro-batches of a step: the terms' weights, the counts of their tokens, the clip.

    Counts are tokens of the whole step. Where a count is 0, no token carries the term, and nothing is divided by it.
    """

    sft_weight: float = 0.0
    grpo_weight: float = 0.0
    adversarial_weight: float = 0.0
    """λ as it acts."""
    kl_coef: float = 0.0
    num_sft: int = 0
    """N_sft."""
    sft_token_weight: Literal["none", "phi"] = "none"
    """φ_t: 1, or p (1 - p)."""
    num_rewarded: int = 0
    """N_reward."""
    num_credited: int = 0
    """N_adv."""
    num_penalised: int = 0
    """N_kl."""
    clip_low: float = 0.2
    """Distance of the ratio's lower bound from 1."""
    clip_high: float = 0.2
    """Distance of the ratio's upper bound from 1."""
    policy_gradient: Literal["ppo", "gspo", "cispo"] = "ppo"
    """A clipped ratio per token (PPO), per completion (GSPO-token), or clipped without losing gradients (CISPO)."""
    importance_cap: float | None = None
    """Truncated importance weights min(π_old / π_sampled, cap) on every w_t; None: none."""

    @property
    def dual_clip(self) -> float | None:
        """Bound of the ratio for negative weights; None where the clip itself reaches beyond it."""
        return DUAL_CLIP if 1 + self.clip_high < DUAL_CLIP else None


@dataclass(frozen=True, slots=True)
class Objective:
    """A micro-batch's share of the step's loss, and what was measured on the way."""

    loss: Tensor
    """The share of L; the shares of a step sum to L."""
    terms: dict[str, Tensor]
    """`sft`, `grpo`, `adversarial`, `kl` where they act, each with the other terms left out. They sum to `loss` where
    nothing is clipped: the clip looks at the whole weight, so beyond it no part belongs to one term."""
    sums: dict[str, Tensor]
    """Sums over tokens without gradient, float64; a step's metrics are their totals over counts."""


def unified_objective(
    experts_T: Tensor | None,
    rollouts: RolloutTokens | None,
    scale: Scale,
    *,
    separates: bool = True,
) -> Objective:
    """Return a micro-batch's share of the step's loss, with its terms and what was measured.

    Args:
        experts_T: log π_θ(y*_t) of the expert's tokens, nats, with gradient; None where there are none.
        rollouts: The rollout tokens; None where there are none.
        scale: Weights and counts of the whole step.
        separates: Whether the terms of the rollouts are also wanted one by one.

    At least one of the two kinds of tokens must be there.

    Returns:
        Loss and terms: sums over the micro-batch's tokens, divided by the counts of the whole step and multiplied by
        the terms' weights.
    """
    losses: list[Tensor] = []
    terms: dict[str, Tensor] = {}
    sums: dict[str, Tensor] = {}
    if experts_T is not None:
        sums["sft"] = -experts_T.sum()
        uses_phi = scale.sft_token_weight == "phi"
        phi_T = phi_weights(experts_T) if uses_phi else torch.ones_like(experts_T)
        sums["phi"] = phi_T.sum()
        weighted = -(phi_T * experts_T).sum() if uses_phi else sums["sft"]
        terms["sft"] = weighted * (scale.sft_weight / max(scale.num_sft, 1))
        losses.append(terms["sft"])
    if rollouts is not None:
        reward_weights_T, weights_T = token_weights(rollouts, scale)
        losses.append(-_surrogate(rollouts, weights_T, scale).sum())
        if separates and scale.grpo_weight:
            terms["grpo"] = -_surrogate(rollouts, reward_weights_T, scale).sum()
        if separates and scale.adversarial_weight and rollouts.credit_T is not None:
            own_T = weights_T - reward_weights_T
            terms["adversarial"] = -_surrogate(rollouts, own_T, scale).sum()
        if rollouts.ref_logprobs_T is not None:
            kl_T = k3(rollouts.logprobs_T, rollouts.ref_logprobs_T, rollouts.is_penalised_T)
            sums["kl"] = kl_T.sum()
            terms["kl"] = sums["kl"] * (scale.kl_coef / max(scale.num_penalised, 1))
            losses.append(terms["kl"])
        sums |= _measured(rollouts, reward_weights_T, weights_T, scale)
    loss = sum(losses[1:], start=losses[0])
    sums["loss"] = loss
    detached = {name: value.detach().double() for name, value in sums.items()}
    return Objective(loss, terms, detached)


def token_weights(tokens: RolloutTokens, scale: Scale) -> tuple[Tensor, Tensor]:
    """Return the reward's part of w_t, and w_t itself, importance weights included.

    A token that does not count for a term gets nothing of it, whatever its place holds.

    Args:
        tokens: Advantages, credit and their masks.
        scale: Weights and counts of the whole step.

    Returns:
        Twice [T], without gradient: advantages (standard deviations, or reward units) and credit (nats), each times its
        term's weight over its count.
    """
    rewards_T = tokens.reward_advantages_T.masked_fill(~tokens.is_rewarded_T, 0.0)
    reward_weights_T = scale.grpo_weight * rewards_T / max(scale.num_rewarded, 1)
    weights_T = reward_weights_T
    if tokens.credit_T is not None and tokens.is_credited_T is not None:
        credit_T = tokens.credit_T.masked_fill(~tokens.is_credited_T, 0.0)
        weights_T = weights_T + scale.adversarial_weight * credit_T / max(scale.num_credited, 1)
    if scale.importance_cap:
        importance_T = importance_weights(
            tokens.old_logprobs_T, tokens.sampling_logprobs_T, scale.importance_cap, weights_T != 0
        )
        return reward_weights_T * importance_T, weights_T * importance_T
    return reward_weights_T, weights_T


def _ratio(tokens: RolloutTokens, is_counted_T: Tensor | None, scale: Scale) -> Tensor:
    """Return ρ_t, [T]: of the token, or in GSPO of its completion; 1 without gradient where it does not count."""
    log_ratios_T = tokens.logprobs_T - tokens.old_logprobs_T.detach()
    if scale.policy_gradient != "gspo":
        return token_ratio(log_ratios_T, is_counted_T)
    index_T, num_sequences = tokens.sequence_index_T, tokens.num_sequences
    assert index_T is not None
    # a completion's mean needs all its tokens, but one without any weight is left out as a whole
    whole_T = torch.ones_like(log_ratios_T, dtype=torch.bool)
    if is_counted_T is not None:
        num_counted_S = sequence_sum(is_counted_T.to(log_ratios_T.dtype), index_T, num_sequences)
        whole_T = (num_counted_S > 0)[index_T]
    return sequence_ratio(log_ratios_T, index_T, num_sequences, whole_T)


def _surrogate(tokens: RolloutTokens, weights_T: Tensor, scale: Scale) -> Tensor:
    """Return what each token adds to the objective that is maximised, [T], in units of the weights."""
    clip = (scale.clip_low, scale.clip_high)
    if scale.policy_gradient == "cispo":
        return cispo_surrogate(tokens.logprobs_T, tokens.old_logprobs_T, weights_T, *clip)
    ratio_T = _ratio(tokens, weights_T != 0, scale)
    return ratio_surrogate(ratio_T, weights_T, *clip, scale.dual_clip)


def _measured(
    tokens: RolloutTokens, reward_weights_T: Tensor, weights_T: Tensor, scale: Scale
) -> dict[str, Tensor]:
    """Return sums over the micro-batch's tokens that tell how the update goes, scalars without gradient.

    The mask of the KL penalty says which tokens count in sums that belong to no term.
    """
    ratio_T = _ratio(tokens, None, scale).detach()
    counts_T, old_T = tokens.is_penalised_T, tokens.old_logprobs_T
    is_clipped_T = torch.zeros_like(counts_T)  # CISPO clips the ratio and takes no gradient away
    if scale.policy_gradient != "cispo":
        is_clipped_T = is_ratio_clipped(
            ratio_T, weights_T, scale.clip_low, scale.clip_high, scale.dual_clip
        )
    sums = {
        "grpo": -(ratio_T * tokens.reward_advantages_T)[tokens.is_rewarded_T].sum(),
        "ratio": ratio_T[counts_T].sum(),
        "entropy": -old_T[counts_T].sum(),
        "gap": (old_T - tokens.sampling_logprobs_T).abs()[counts_T].sum(),
        "clipped": is_clipped_T.sum(),
        "weighted": (weights_T != 0).sum(),
        "grpo_weights": reward_weights_T.abs().sum(),
        "adversarial_weights": (weights_T - reward_weights_T).abs().sum(),
    }
    if tokens.credit_T is not None and tokens.is_credited_T is not None:
        sums["adversarial"] = -(ratio_T * tokens.credit_T)[tokens.is_credited_T].sum()
    return sums
