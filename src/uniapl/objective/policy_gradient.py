"""What a rollout token adds to the objective: probability ratios, surrogates of the policy gradient, the KL penalty.

A ratio compares the policy that learns with the one that sampled: per token (PPO, GRPO) or per sequence (GSPO). A
surrogate multiplies it by the token's weight w_t, an advantage that is already divided by the step's number of tokens.
The surrogate is maximised. Its gradient is what counts; its value is not a reward.

Unlike in the papers, a log-ratio above `MAX_LOG_RATIO` is cut before it is exponentiated, and a token without weight
is left out before that. So a ratio that would overflow gives neither 0 · ∞ nor an infinite gradient.
"""

import torch
from torch import Tensor

from uniapl.errors import InputError
from uniapl.objective.reductions import sequence_sum

MAX_LOG_RATIO = 20.0
"""Largest log-ratio that is exponentiated, in nats. Above it the ratio is e^20, about 5e8, and has no gradient.

Log-ratios of an ordinary update stay below 1; float32 overflows at 88. There is no lower bound: the exponential of a
very negative log-ratio is 0, which does no harm.
"""


def _bounded(log_ratios_T: Tensor, is_counted_T: Tensor | None) -> Tensor:
    """Return [T] with uncounted entries set to 0 and the others cut at `MAX_LOG_RATIO`, for what exponentiates them.

    Masking after the exponential would be too late: its backward pass multiplies the mask's 0 with infinity.
    """
    if is_counted_T is not None:
        log_ratios_T = log_ratios_T.masked_fill(~is_counted_T, 0.0)
    return log_ratios_T.clamp(max=MAX_LOG_RATIO)


def token_ratio(log_ratios_T: Tensor, is_counted_T: Tensor | None = None) -> Tensor:
    """Return the probability ratio of each token, ρ_t = π_θ(y_t) / π_old(y_t) (PPO, arXiv 1707.06347).

    Args:
        log_ratios_T: log π_θ(y_t) - log π_old(y_t), [T], nats. Its gradient should reach π_θ only.
        is_counted_T: Tokens that count, [T]. The others get ratio 1 and no gradient. None counts all.

    Returns:
        [T], without unit, at most e^`MAX_LOG_RATIO`.
    """
    return _bounded(log_ratios_T, is_counted_T).exp()


def sequence_ratio(
    log_ratios_T: Tensor, sequence_index_T: Tensor, num_sequences: int, is_counted_T: Tensor
) -> Tensor:
    """Return GSPO-token's ratio of each token: its value is the sequence's, its gradient the token's.

        s_i     = exp( mean_t [log π_θ(y_i,t) - log π_old(y_i,t)] )
        s_i,t   = sg[s_i] · π_θ(y_i,t) / sg[π_θ(y_i,t)]

    sg stops the gradient. With one weight for all tokens of a sequence, the gradients of its tokens sum to that of
    |y_i| · s_i, which is GSPO. With a weight per token, as the adversarial term has, each token keeps its own.
    Source: Group Sequence Policy Optimization (arXiv 2507.18071), the section on GSPO-token.

    Micro-batches may split a group but never a sequence: the mean needs all its tokens.

    Args:
        log_ratios_T: log π_θ(y_t) - log π_old(y_t), [T], nats. Its gradient should reach π_θ only.
        sequence_index_T: Sequence of each token, [T], from 0 to `num_sequences` - 1, in any order.
        num_sequences: S, the number of sequences; some may have no token.
        is_counted_T: Tokens that count, [T]. The others do not enter the mean and get ratio 1 and no gradient.

    Returns:
        [T], without unit. Where a sequence's mean is above `MAX_LOG_RATIO`, its tokens get e^`MAX_LOG_RATIO` and no
        gradient.
    """
    kept_T = log_ratios_T.masked_fill(~is_counted_T, 0.0)
    detached_T = kept_T.detach()
    counts_S = sequence_sum(is_counted_T.to(kept_T.dtype), sequence_index_T, num_sequences)
    mean_S = sequence_sum(detached_T, sequence_index_T, num_sequences) / counts_S.clamp(min=1)
    mean_T = mean_S[sequence_index_T].masked_fill(~is_counted_T, 0.0)
    # the difference is 0, and its exponential 1, but it carries the token's gradient
    own_T = (kept_T - detached_T).masked_fill(mean_T > MAX_LOG_RATIO, 0.0)
    return _bounded(mean_T, None).exp() * own_T.exp()


def ratio_surrogate(
    ratio_T: Tensor,
    weights_T: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:
    """Return the clipped surrogate of each token, for any ratio.

        min(ρ_t w_t, clip(ρ_t, 1 - clip_low, 1 + clip_high) w_t)                        (PPO, arXiv 1707.06347, eq. 7)
        max(min(ρ_t w_t, clip(ρ_t, …) w_t), c w_t)   where w_t < 0 and c is given       (dual clip, arXiv 1912.09729)

    The sign of the whole weight decides which side of the clip acts: a positive weight stops pushing above
    1 + clip_high, a negative one below 1 - clip_low. A negative weight on a ratio far above 1 is unbounded in PPO; the
    dual clip bounds it, and the token has no gradient where ρ_t > c.

    Args:
        ratio_T: ρ_t of `token_ratio`, or s_i,t of `sequence_ratio`, [T], without unit, with gradient.
        weights_T: w_t, [T], without gradient. A token with weight 0 gives 0, if its ratio is finite.
        clip_low: Distance of the lower bound from 1.
        clip_high: Distance of the upper bound from 1.
        dual_clip: c, the largest ratio that a negative weight acts on; None for PPO's surrogate. The paper takes 3.

    Returns:
        [T], in units of the weights, to be summed over tokens and maximised.

    Raises:
        InputError: `dual_clip` is at most 1 + `clip_high`.
    """
    clipped_T = ratio_T.clamp(1 - clip_low, 1 + clip_high)
    surrogate_T = torch.minimum(ratio_T * weights_T, clipped_T * weights_T)
    if dual_clip is None:
        return surrogate_T
    _check_dual_clip(dual_clip, clip_high)
    bounded_T = torch.maximum(surrogate_T, dual_clip * weights_T)
    return torch.where(weights_T < 0, bounded_T, surrogate_T)


def is_ratio_clipped(
    ratio_T: Tensor,
    weights_T: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:
    """Say where a clip of `ratio_surrogate` has taken a weighted token's gradient away.

    Args:
        ratio_T: The ratio, [T], without unit.
        weights_T: w_t, [T]. A token with weight 0 is never clipped.
        clip_low: As in `ratio_surrogate`.
        clip_high: As in `ratio_surrogate`.
        dual_clip: As in `ratio_surrogate`. Without it, a ratio that was cut at e^`MAX_LOG_RATIO` and has a negative
            weight has no gradient either, but does not count here.

    Returns:
        [T], bool.

    Raises:
        InputError: `dual_clip` is at most 1 + `clip_high`.
    """
    too_high_T = (weights_T > 0) & (ratio_T > 1 + clip_high)
    too_low_T = (weights_T < 0) & (ratio_T < 1 - clip_low)
    if dual_clip is None:
        return too_high_T | too_low_T
    _check_dual_clip(dual_clip, clip_high)
    return too_high_T | too_low_T | ((weights_T < 0) & (ratio_T > dual_clip))


def _check_dual_clip(dual_clip: float, clip_high: float) -> None:
    """Refuse a dual clip that does not lie beyond the bound of the plain clip."""
    if dual_clip <= 1 + clip_high:
        raise InputError(
            f"dual_clip: must be above 1 + clip_high ({1 + clip_high}), got {dual_clip}; "
            "take a larger ratio such as 3, or leave it out"
        )


def cispo_surrogate(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    weights_T: Tensor,
    clip_low: float,
    clip_high: float,
) -> Tensor:
    """Return CISPO's surrogate of each token: sg[clip(ρ_t, 1 - clip_low, 1 + clip_high)] · w_t · log π_θ(y_t).

    sg stops the gradient. The ratio is clipped and the token is not: every weighted token keeps a gradient,
    clip(ρ_t) w_t ∇log π_θ(y_t), and where ρ_t = 1 it is PPO's. The value has no meaning of its own; on a first pass
    PPO's is w_t and this one is w_t log π_θ(y_t).
    Source: MiniMax-M1 (arXiv 2506.13585), eq. 4 and 5, whose authors set no lower bound: `clip_low` 1 does that.

    Args:
        logprobs_T: log π_θ(y_t), [T], nats, with gradient.
        old_logprobs_T: log π_old(y_t), [T], nats; no gradient reaches it.
        weights_T: w_t, the paper's advantage over its count of tokens, [T], without gradient. A token with weight 0
            gives 0 and no gradient, whatever else it holds.
        clip_low: Distance of the lower bound from 1.
        clip_high: Distance of the upper bound from 1.

    Returns:
        [T], in units of the weights times nats, to be summed over tokens and maximised.
    """
    ratio_T = token_ratio(logprobs_T.detach() - old_logprobs_T.detach(), weights_T != 0)
    clipped_T = ratio_T.clamp(1 - clip_low, 1 + clip_high)
    return clipped_T * weights_T * logprobs_T.masked_fill(weights_T == 0, 0.0)


def importance_weights(
    old_logprobs_T: Tensor,
    sampling_logprobs_T: Tensor,
    cap: float,
    is_counted_T: Tensor | None = None,
) -> Tensor:
    """Return min(π_old/π_sampled, cap) of each token, for rollouts sampled by another engine or number type.

    Truncated importance sampling: a weight above the cap is biased down, so that one token cannot rule a step.

    Args:
        old_logprobs_T: log π_old(y_t) as the trainer computes it, [T], nats.
        sampling_logprobs_T: log π_sampled(y_t) as the engine reported it, [T], nats.
        cap: Largest weight, above 0.
        is_counted_T: Tokens that count, [T]. The others get weight 1. None counts all.

    Returns:
        [T], without unit and without gradient, at most e^`MAX_LOG_RATIO` whatever the cap.
    """
    return token_ratio(old_logprobs_T - sampling_logprobs_T, is_counted_T).clamp(max=cap).detach()


def k3(logprobs_T: Tensor, ref_logprobs_T: Tensor, is_counted_T: Tensor | None = None) -> Tensor:
    """Return π_ref/π_θ - 1 - log(π_ref/π_θ) of each token: an estimate of KL(π_θ ‖ π_ref), never negative.

    Unbiased in value on samples of π_θ (http://joschu.net/blog/kl-approx.html). Its gradient with the
    samples held fixed is (1 - π_ref/π_θ)·∇log π_θ, in expectation that of the FORWARD KL(π_ref ‖ π_θ).

    Args:
        logprobs_T: log π_θ(y_t), [T], nats, with gradient.
        ref_logprobs_T: The reference's log π_ref(y_t), [T], nats; no gradient reaches it.
        is_counted_T: Tokens that count, [T]. The others give 0 and no gradient. None counts all.

    Returns:
        [T], nats. Where log π_ref - log π_θ is above `MAX_LOG_RATIO`, it is the value there, without gradient.
    """
    log_ratios_T = _bounded(ref_logprobs_T.detach() - logprobs_T, is_counted_T)
    return log_ratios_T.exp() - 1 - log_ratios_T
