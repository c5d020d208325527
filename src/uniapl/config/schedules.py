"""Values that change over a run: term weights and the learning rate."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:  # the schema's checks read this module
    from uniapl.config.schema import OptimizerConfig

Points = tuple[tuple[float, float], ...]
"""Piecewise linear: `(fraction of all steps, value)`, the fractions ascending; the same one twice is a jump."""
_Value = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Fraction = Annotated[float, Field(ge=0, le=1)]


class HalfCosine(BaseModel):
    """A schedule that moves in a straight line to its peak, then along half a cosine to its end, where it stays.

    This is CHORD's μ (arXiv 2508.11408); its example has peak 0.5, end 0.02 and a decay twice as long as the warm-up.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    start: _Value = 0.0
    """Value at the first step, if there is a warm-up."""
    peak: _Value = 0.5
    """Value after the warm-up."""
    end: _Value = 0.02
    """Value after the decay."""
    warmup: _Fraction = 0.2
    """Fraction of all steps from start to peak."""
    decay: _Fraction = 0.4
    """Fraction of all steps from peak to end."""

    def at(self, fraction: float) -> float:
        """Return the value after a fraction of the steps.

        start + (peak - start) · f / warmup                              f < warmup
        end + (peak - end) · ½ (1 + cos(π (f - warmup) / decay))         the next `decay`
        end                                                              afterwards
        """
        if fraction < self.warmup:
            return self.start + (self.peak - self.start) * fraction / self.warmup
        since_peak = fraction - self.warmup
        if since_peak >= self.decay:
            return self.end
        return (
            self.end
            + (self.peak - self.end) * (1 + math.cos(math.pi * since_peak / self.decay)) / 2
        )


Weight = float | Points | HalfCosine
"""A constant, points of a schedule, or a half cosine."""

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
    if isinstance(weight, HalfCosine):
        return weight.at(fraction)
    points: Sequence[tuple[float, float]] = weight
    if fraction < points[0][0]:
        return points[0][1]
    for (start, first), (end, second) in pairwise(points):
        if start <= fraction < end:
            return first + (second - first) * (fraction - start) / (end - start)
    return points[-1][1]


def is_ever_positive(weight: Weight) -> bool:
    """Return whether the weight acts at any time of the run."""
    return greatest(weight) > 0


def greatest(weight: Weight) -> float:
    """Return the greatest value that a schedule names."""
    if isinstance(weight, (int, float)):
        return float(weight)
    if isinstance(weight, HalfCosine):
        return max(weight.start, weight.peak, weight.end)
    return max(value for _, value in weight)


def rest_of(weight: Weight) -> Weight:
    """Return the schedule of 1 - weight, for a weight that is at most 1."""
    if isinstance(weight, (int, float)):
        return 1.0 - weight
    if isinstance(weight, HalfCosine):
        turned = {name: 1.0 - getattr(weight, name) for name in ("start", "peak", "end")}
        return weight.model_copy(update=turned)
    return tuple((fraction, 1.0 - value) for fraction, value in weight)


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
