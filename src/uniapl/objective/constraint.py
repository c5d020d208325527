"""λ as the multiplier of the constraint D(expert, π_θ) ≤ ε.

The distance is a reverse KL in nats per token where the discriminator is a log-ratio, and a pair accuracy where it
ranks completions. All of this is plain numbers, once per step. The rule of `next_weight` is *ours*: a multiplicative
gradient step on the multiplier. Nothing here raises.
"""

import math
from typing import Literal


def smooth(average: float | None, value: float, smoothing: float) -> float:
    """Return the next exponential moving average, smoothing · average + (1 - smoothing) · value.

    Args:
        average: The average so far; None before the first value, which it then is.
        value: The new value.
        smoothing: The share of the past that stays, from 0 (none) to below 1.

    Returns:
        In the unit of the values.
    """
    return value if average is None else smoothing * average + (1 - smoothing) * value


def next_weight(
    weight: float, distance: float, target: float, rate: float, bounds: tuple[float, float]
) -> float:
    """Return λ ← clip(λ · exp(η · (distance - target)), λ_min, λ_max): farther than the target, more weight.

    Args:
        weight: λ.
        distance: The smoothed distance to the expert.
        target: ε, the distance that counts as close enough, in the same unit.
        rate: η, how fast λ moves per step.
        bounds: λ_min > 0 and λ_max.

    Returns:
        The next step's λ, without unit.
    """
    low, high = bounds
    return min(max(weight * math.exp(rate * (distance - target)), low), high)


def constraint_state(weight: float, bounds: tuple[float, float]) -> Literal[-1, 0, 1]:
    """Say where λ stands: -1 slack (at its minimum), 0 active, 1 saturated (at its maximum).

    Args:
        weight: λ.
        bounds: λ_min and λ_max.
    """
    if weight <= bounds[0]:
        return -1
    return 1 if weight >= bounds[1] else 0
