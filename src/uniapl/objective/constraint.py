"""λ as the multiplier of the constraint D(expert, π_θ) ≤ ε, the distance seen as pair accuracy.

Plain numbers, once per step; the rule of `next_weight` is *ours* (a multiplicative gradient step on the multiplier).
"""

import math
from typing import Literal


def ramp(step: int, warmup_steps: int, ramp_steps: int) -> float:
    """Return the share of λ that acts in a step: 0 during the warm-up, then linear to 1.

    Args:
        step: The step, from 0.
        warmup_steps: Steps in which nothing acts.
        ramp_steps: Steps of the rise; its first has 1/`ramp_steps`, its last 1. With 0 or 1, λ acts at once.

    Returns:
        A number from 0 to 1.
    """
    if step < warmup_steps:
        return 0.0
    return min(1.0, (step - warmup_steps + 1) / max(ramp_steps, 1))


def smooth(average: float | None, value: float, smoothing: float) -> float:
    """Return the next exponential moving average, smoothing · average + (1 - smoothing) · value.

    Args:
        average: The average so far; None before the first value, which it then is.
        value: The new value.
        smoothing: The share of the past that stays, from 0 (none) to below 1.
    """
    return value if average is None else smoothing * average + (1 - smoothing) * value


def next_weight(
    weight: float, accuracy: float, target: float, rate: float, bounds: tuple[float, float]
) -> float:
    """Return λ ← clip(λ · exp(η · (accuracy - target)), λ_min, λ_max): farther than the target, more weight.

    Args:
        weight: λ.
        accuracy: Smoothed pair accuracy on held-out demonstrations, from 0 to 1.
        target: The accuracy that counts as close enough, from 0 to 1.
        rate: η, how fast λ moves per step.
        bounds: λ_min > 0 and λ_max.
    """
    low, high = bounds
    return min(max(weight * math.exp(rate * (accuracy - target)), low), high)


def constraint_state(weight: float, bounds: tuple[float, float]) -> Literal[-1, 0, 1]:
    """Say where λ stands: -1 slack (at its minimum), 0 active, 1 saturated (at its maximum).

    Args:
        weight: λ.
        bounds: λ_min and λ_max.
    """
    if weight <= bounds[0]:
        return -1
    return 1 if weight >= bounds[1] else 0
