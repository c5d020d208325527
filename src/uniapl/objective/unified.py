"""The objective of a step: three terms on one list of tokens, each over its own count.

    w_t = grpo_weight · A_reward / N_reward + λ · A_adv,t / N_adv
    L   = - Σ_rollout tokens min(ρ_t w_t, clip(ρ_t, 1 - clip_low, 1 + clip_high) w_t)
          + sft_weight / N_sft · Σ_expert tokens -log π_θ(y*_t) + kl_coef / N_rollout · Σ k3_t

N_reward, N_adv, N_sft and N_rollout count the tokens of the whole step that carry the term, so micro-batches add up
to the same loss however they are cut. L is in nats per token, but for the weights; it is minimised. The clip is PPO's
(arXiv 1707.06347), on the weight of both terms together; k3 is `policy_gradient.k3`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from uniapl.objective.policy_gradient import clipped_surrogate, k3


@dataclass(frozen=True, slots=True)
class ExpertTokens:
    """The expert's tokens of a micro-batch, all of which count."""

    logprobs: Tensor
    """log π_θ(y*_t), [T], nats, with gradient."""


@dataclass(frozen=True, slots=True)
class RolloutTokens:
    """The rollout tokens of a micro-batch, all [T]."""

    logprobs: Tensor
    """log π_θ(y_t), nats, with gradient."""
    old_logprobs: Tensor
    """log π_old(y_t), nats; `logprobs.detach()` on the first pass."""
    weights: Tensor
    """w_t of `token_weights`, importance weight included; 0 leaves the token out of the surrogate."""
    is_counted: Tensor
    """False on masked truncations, which must have weight 0: it leaves the token out of the KL penalty."""
    ref_logprobs: Tensor | None = None
    """log π_ref(y_t), nats; None if kl_coef is 0."""
    reward_weights: Tensor | None = None
    """The reward's part of `weights`, the rest being the discriminator's; only `term_losses` asks for it."""


@dataclass(frozen=True, slots=True)
class StepScale:
    """What is the same for all micro-batches of a step."""

    sft_weight: float
    """Weight of the SFT term; 0 leaves the expert's tokens out."""
    kl_coef: float
    """Weight of the KL penalty; 0 leaves it out."""
    clip_low: float
    """The ratio's lower bound is 1 minus this."""
    clip_high: float
    """The ratio's upper bound is 1 plus this."""
    num_sft_tokens: int
    """N_sft of the whole step."""
    num_rollout_tokens: int
    """N_rollout of the whole step, masked truncations excluded."""


def token_weights(
    reward_advantages: Tensor,
    is_rewarded: Tensor,
    adversarial_advantages: Tensor | None,
    is_counted: Tensor,
    grpo_weight: float,
    adversarial_weight: float,
) -> Tensor:
    """Return w_t of every rollout token of the step, as the module's docstring defines it.

    The counts are taken from the tokens given, so these must be all of the step, or weights would depend on how it
    is cut.

    Args:
        reward_advantages: A_reward of the token's completion, [T].
        is_rewarded: True where the completion has a reward, [T].
        adversarial_advantages: A_adv,t, [T]; None without a discriminator.
        is_counted: False on masked truncations, which get weight 0 and enter no count, [T].
        grpo_weight: Weight of the reward term.
        adversarial_weight: λ as it acts.

    Returns:
        [T], without gradient if the advantages have none; a term's part is 0 where no token carries it.
    """
    rewarded = is_rewarded & is_counted
    num_reward = rewarded.sum().clamp(min=1)
    weights = grpo_weight * reward_advantages.masked_fill(~rewarded, 0.0) / num_reward
    if adversarial_advantages is not None:
        num_adversarial = is_counted.sum().clamp(min=1)
        credit = adversarial_advantages.masked_fill(~is_counted, 0.0)
        weights = weights + adversarial_weight * credit / num_adversarial
    return weights


def unified_objective(
    expert: ExpertTokens | None, rollouts: RolloutTokens | None, scale: StepScale
) -> Tensor:
    """Return this micro-batch's share of the step's loss L; the shares of a step sum to L.

    Args:
        expert: The expert's tokens; None without, and left out where `sft_weight` is 0.
        rollouts: The rollouts' tokens; None without. One part at least must be there.
        scale: What all micro-batches of the step share.

    Returns:
        A tensor without dimensions, with gradient: sums over tokens, divided by the counts of the step.
    """
    losses: list[Tensor] = []
    if expert is not None and scale.sft_weight:
        losses.append(-expert.logprobs.sum() * (scale.sft_weight / max(scale.num_sft_tokens, 1)))
    if rollouts is not None:
        surrogate = clipped_surrogate(
            rollouts.logprobs,
            rollouts.old_logprobs,
            rollouts.weights,
            scale.clip_low,
            scale.clip_high,
        )
        losses.append(-surrogate.sum())
        if rollouts.ref_logprobs is not None and scale.kl_coef:
            kl = k3(rollouts.logprobs, rollouts.ref_logprobs, rollouts.is_counted)
            losses.append(kl.sum() * (scale.kl_coef / max(scale.num_rollout_tokens, 1)))
    return sum(losses[1:], start=losses[0])


def term_losses(
    expert: ExpertTokens | None, rollouts: RolloutTokens | None, scale: StepScale
) -> dict[str, Tensor]:
    """Split this micro-batch's share of L into its terms: each is the objective with the others left out.

    They sum to `unified_objective` where nothing is clipped, as on a first pass, where ρ_t = 1: the clip
    looks at the whole weight, so beyond it there is no part of one term.

    Args:
        expert: As in `unified_objective`.
        rollouts: As in `unified_objective`, with `reward_weights`.
        scale: As in `unified_objective`.

    Returns:
        Some of `sft`, `grpo`, `adversarial` and `kl`, in this order, each a tensor without dimensions, with gradient;
        a term that the step does not have is absent.
    """
    losses: dict[str, Tensor] = {}
    if expert is not None and scale.sft_weight:
        losses["sft"] = unified_objective(expert, None, scale)
    if rollouts is not None:
        assert rollouts.reward_weights is not None
        alone = replace(rollouts, ref_logprobs=None)
        for name, weights in (
            ("grpo", rollouts.reward_weights),
            ("adversarial", rollouts.weights - rollouts.reward_weights),
        ):
            losses[name] = unified_objective(None, replace(alone, weights=weights), scale)
        if rollouts.ref_logprobs is not None and scale.kl_coef:
            unweighted = replace(rollouts, weights=torch.zeros_like(rollouts.weights))
            losses["kl"] = unified_objective(None, unweighted, scale)
    return losses
