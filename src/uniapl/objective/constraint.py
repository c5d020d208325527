"""λ as the multiplier of the constraint D(expert, π_θ) ≤ ε, the distance seen as pair accuracy."""

import math
from typing import Literal


def ramp(step: int, warmup_steps: int, ramp_steps: int) -> float:
    """Share of λ that acts in `step` (from 0): 0 during the warm-up, then linear to 1."""
    if step < warmup_steps:
        return 0.0
    return min(1.0, (step - warmup_steps + 1) / max(ramp_steps, 1))


def smooth(average: float | None, value: float, smoothing: float) -> float:
    """Exponential moving average; starts at the first value."""
    return value if average is None else smoothing * average + (1 - smoothing) * value


def next_weight(
    weight: float, accuracy: float, target: float, rate: float, bounds: tuple[float, float]
) -> float:
    """λ ← clip(λ · exp(η · (accuracy - target)), λ_min, λ_max): farther than the target, more weight.

    Args:
        weight: λ.
        accuracy: Smoothed pair accuracy on held-out demonstrations.
        target: The accuracy that counts as close enough.
        rate: η.
        bounds: λ_min > 0 and λ_max.
    """
    low, high = bounds
    return min(max(weight * math.exp(rate * (accuracy - target)), low), high)


def constraint_state(weight: float, bounds: tuple[float, float]) -> Literal[-1, 0, 1]:
    """-1 slack (λ at its minimum), 0 active, 1 saturated (λ at its maximum)."""
    if weight <= bounds[0]:
        return -1
    return 1 if weight >= bounds[1] else 0
