"""The clipped surrogate on weighted tokens, and the KL penalty."""

import torch
from torch import Tensor


def clipped_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, weights: Tensor, clip_low: float, clip_high: float
) -> Tensor:
    """min(ρ_t w_t, clip(ρ_t, 1 - clip_low, 1 + clip_high) w_t) per token (PPO, arXiv 1707.06347, eq. 7).

    ρ_t = π_θ/π_old. The sign of the whole weight decides which side of the clip acts: a positive one stops
    pushing above 1 + clip_high, a negative one below 1 - clip_low.
    """
    ratio = (logprobs - old_logprobs.detach()).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return torch.minimum(ratio * weights, clipped * weights)


def is_clipped(
    logprobs: Tensor, old_logprobs: Tensor, weights: Tensor, clip_low: float, clip_high: float
) -> Tensor:
    """True where the clip has taken a weighted token's gradient away."""
    ratio = (logprobs - old_logprobs).exp()
    return ((weights > 0) & (ratio > 1 + clip_high)) | ((weights < 0) & (ratio < 1 - clip_low))


def importance_weights(old_logprobs: Tensor, sampling_logprobs: Tensor, cap: float) -> Tensor:
    """min(π_old/π_sampled, cap) per token, for rollouts sampled by another engine or number type."""
    return (old_logprobs - sampling_logprobs).exp().clamp(max=cap).detach()


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """π_ref/π_θ - 1 - log(π_ref/π_θ) per token: an estimate of KL(π_θ ‖ π_ref), never negative.

    Unbiased in value on samples of π_θ (http://joschu.net/blog/kl-approx.html). Its gradient with the
    samples held fixed is (1 - π_ref/π_θ)·∇log π_θ, in expectation that of the FORWARD KL(π_ref ‖ π_θ).
    """
    log_ratio = ref_logprobs.detach() - logprobs
    return log_ratio.exp() - 1 - log_ratio
