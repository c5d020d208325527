"""The token surrogate as the unified objective puts it together, for tests of its parts."""

from torch import Tensor

from uniapl.objective.policy_gradient import is_ratio_clipped, ratio_surrogate, token_ratio


def clipped_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, weights: Tensor, clip_low: float, clip_high: float
) -> Tensor:
    ratio = token_ratio(logprobs - old_logprobs.detach(), weights != 0)
    return ratio_surrogate(ratio, weights, clip_low, clip_high)


def is_clipped(
    logprobs: Tensor, old_logprobs: Tensor, weights: Tensor, clip_low: float, clip_high: float
) -> Tensor:
    return is_ratio_clipped(
        token_ratio(logprobs - old_logprobs, weights != 0), weights, clip_low, clip_high
    )
