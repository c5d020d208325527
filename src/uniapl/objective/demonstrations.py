"""How much each token of a demonstration counts.

CHORD (arXiv 2508.11408) minimises (1 - μ) · L_GRPO + μ · L_SFT. CHORD-μ moves μ over the run
(`config.schedules.HalfCosine`); CHORD-φ keeps μ and weighs every expert token.
"""

from torch import Tensor


def phi_weights(logprobs_T: Tensor) -> Tensor:
    """Return φ_t = p_t (1 - p_t), p_t = π_θ(y*_t), of each expert token (CHORD-φ, arXiv 2508.11408).

    The term is the sum of -φ_t log π_θ(y*_t) divided by the number of tokens, not by the sum of φ. Tokens that the
    policy is sure of teach little, and so do those that it holds impossible.

    Args:
        logprobs_T: log π_θ(y*_t), [T], nats, at most 0 (rounding above it is cut).

    Returns:
        [T], from 0 to ¼, without unit and without gradient.
    """
    logprobs_T = logprobs_T.detach().clamp(max=0.0)
    # 1 - p by expm1, which keeps its digits where p is almost 1
    return logprobs_T.exp() * -logprobs_T.expm1()
