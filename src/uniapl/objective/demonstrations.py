"""How much demonstrations count: CHORD's weight of each expert token and its schedule of the whole term.

CHORD (arXiv 2508.11408) minimises (1 - μ) · L_GRPO + μ · L_SFT. CHORD-μ moves μ over the run; CHORD-φ keeps μ and
weighs every expert token.
"""

import math

from torch import Tensor

from uniapl.errors import InputError


def phi_weights(logprobs_T: Tensor) -> Tensor:
    """Return φ_t = p_t (1 - p_t), p_t = π_θ(y*_t), of each expert token (CHORD-φ, arXiv 2508.11408).

    The term is the sum of -φ_t log π_θ(y*_t) over the number of tokens, not over the sum of φ. Tokens that the policy
    is sure of teach little, and so do those that it holds impossible.

    Args:
        logprobs_T: log π_θ(y*_t), [T], nats, at most 0 (rounding above it is cut).

    Returns:
        [T], from 0 to ¼, without unit and without gradient.
    """
    logprobs_T = logprobs_T.detach().clamp(max=0.0)
    # 1 - p by expm1, which keeps its digits where p is almost 1
    return logprobs_T.exp() * -logprobs_T.expm1()


def chord_mu(step: int, peak: float, valley: float, warmup_steps: int, decay_steps: int) -> float:
    """Return μ in one step: it rises linearly to its peak, then falls along half a cosine to its valley.

        μ = peak · step / warmup_steps                                              step < warmup_steps
            valley + (peak - valley) · ½ (1 + cos(π (step - warmup) / decay))       the next decay_steps
            valley                                                                  afterwards

    CHORD-μ (arXiv 2508.11408). Its first step has μ = 0 (no SFT) if there is a warm-up.

    Args:
        step: The step, from 0.
        peak: The greatest μ, from 0 to 1.
        valley: The last μ, from 0 to `peak`.
        warmup_steps: Steps before the peak; with 0 the run starts at it.
        decay_steps: Steps from peak to valley; with 0 the warm-up ends in the valley.

    Returns:
        A number from 0 to 1.

    Raises:
        InputError: peak and valley are not in order between 0 and 1, or a number of steps is negative.
    """
    if not 0 <= valley <= peak <= 1:
        raise InputError(
            f"CHORD's μ: needs 0 ≤ valley ≤ peak ≤ 1, got valley {valley} and peak {peak}"
        )
    if warmup_steps < 0 or decay_steps < 0:
        raise InputError(
            "CHORD's μ: warm-up and decay must have 0 steps or more, "
            f"got {warmup_steps} and {decay_steps}"
        )
    if step < warmup_steps:
        return peak * step / warmup_steps
    since_peak = step - warmup_steps
    if since_peak >= decay_steps:
        return valley
    return valley + (peak - valley) * (1 + math.cos(math.pi * since_peak / decay_steps)) / 2
