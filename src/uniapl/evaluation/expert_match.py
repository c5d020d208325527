"""How near the policy's completions are to the expert's: length and log-probability."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import wasserstein_distance

DEFINITIONS = {
    "completion_tokens_mean": "Mean length of the policy's completions, tokens with the end of turn.",
    "expert_completion_tokens_mean": "Mean length of the expert's completions, tokens.",
    "completion_tokens_w1": "Wasserstein-1 distance of the two length distributions, tokens; 0 = the same.",
    "expert_nll": "Negative log-likelihood of the expert's completions under the policy, nats per token.",
    "truncated_fraction": "Share of completions cut off by the token limit.",
}
"""One line per metric, as the report prints it."""


def length_match(lengths: Sequence[int], expert_lengths: Sequence[int]) -> dict[str, float]:
    """Compare completion lengths in tokens; both lists are samples of a distribution, not pairs."""
    return {
        "completion_tokens_mean": float(np.mean(lengths)),
        "expert_completion_tokens_mean": float(np.mean(expert_lengths)),
        "completion_tokens_w1": float(wasserstein_distance(lengths, expert_lengths)),
    }
