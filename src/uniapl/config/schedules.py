"""Values that change over a run: term weights and the learning rate."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the schema's checks read this module
    from uniapl.config.schema import OptimizerConfig

Points = tuple[tuple[float, float], ...]
"""Piecewise linear: `(fraction of all steps, value)`, the fractions ascending; the same one twice is a jump."""
Weight = float | Points
"""A constant, or points of a schedule."""

FINAL_FRACTION = 0.1
"""Share of the peak learning rate that is left at the last step."""


def weight_at(weight: Weight, step: int, steps: int) -> float:
    """Value of a weight in `step` (from 0) of `steps`.

    Between points it is linear in the fraction step/steps, outside them constant; of two points at one
    fraction the first ends what comes before, the second begins what comes after.
    """
    if isinstance(weight, (int, float)):
        return float(weight)
    fraction = step / steps
    points: Sequence[tuple[float, float]] = weight
    if fraction < points[0][0]:
        return points[0][1]
    for (start, first), (end, second) in pairwise(points):
        if start <= fraction < end:
            return first + (second - first) * (fraction - start) / (end - start)
    return points[-1][1]


def is_ever_positive(weight: Weight) -> bool:
    """Return whether the weight acts at any time of the run."""
    if isinstance(weight, (int, float)):
        return weight > 0
    return any(value > 0 for _, value in weight)


def learning_rate_factor(config: "OptimizerConfig", step: int, steps: int) -> float:
    """Share of the peak learning rate in `step` (from 0) of `steps`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    done = (step - config.warmup_steps) / max(steps - 1 - config.warmup_steps, 1)
    done = min(done, 1.0)
    fall = (1 + math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else 1 - done
    return FINAL_FRACTION + (1 - FINAL_FRACTION) * fall
