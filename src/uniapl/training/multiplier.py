"""λ over a run: when it acts, and how the constraint D(expert, π_θ) ≤ ε moves it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from uniapl.config.recipe import GREATEST_WEIGHT, LEAST_WEIGHT, Recipe
from uniapl.objective.constraint import constraint_state, next_weight, smooth

ROUNDING = 1e-6
"""At a margin up to this, in nats per token, a discriminator tells nothing: two equal models differ by so much in
float32."""

SMOOTHING = 0.8
"""Weight of the past in the moving averages of margin and distance."""


@dataclass(slots=True)
class Multiplier:
    """What was measured of the discriminator so far, and the λ that follows from it.

    A discriminator that is wrong moves nothing: while held-out demonstrations look less like the expert to it than
    fresh rollouts do, its credit points away from the expert. A learned log-ratio form then does not act at all, and
    a ranking form does not move λ, so that "the constraint is met" is never said of it.
    """

    recipe: Recipe
    strength: float | None = None
    """λ before the ramp, where the constraint moves it; None: the config's."""
    margin: float | None = None
    """Smoothed margin of a log-ratio form, nats per token: held-out demonstrations minus rollouts."""
    distance: float | None = None
    """Smoothed distance to the expert: reverse KL in nats per token, or pair accuracy of a ranking form."""

    def __post_init__(self) -> None:
        if self.recipe.moves_lambda and self.strength is None:
            weight = self.recipe.config.objective.adversarial_weight
            assert isinstance(weight, float | int)
            self.strength = float(weight)

    @property
    def is_closed(self) -> bool:
        """Whether λ is 0 because the discriminator is wrong."""
        return self.margin is not None and self.margin <= ROUNDING

    def observe(self, step: int, health: Mapping[str, float | None]) -> dict[str, float | None]:
        """Take in what a step measured of the discriminator, and move λ where a target asks for it.

        Args:
            step: Updates done before.
            health: The step's `discriminator/*` metrics. `margin` decides whether a log-ratio form acts; the distance
                is minus `log_ratio`, or `held_out_accuracy` of a ranking form. What is absent or None moves nothing.

        Returns:
            `constraint/*` metrics; none without a discriminator.
        """
        if not self.recipe.has_discriminator:
            return {}
        config = self.recipe.config.constraint
        # before the discriminator has learned anything, its margin and its distance are noise
        has_learned = step >= max(self.recipe.config.discriminator.warmup_steps, 1)
        margin = health.get("discriminator/margin")
        if margin is not None and has_learned:
            self.margin = smooth(self.margin, margin, SMOOTHING)
        metrics: dict[str, float | None] = {"constraint/margin": self.margin}
        if self.strength is None or config.target is None:
            return metrics
        is_ranking = self.recipe.samples_held_out
        ratio = health.get("discriminator/log_ratio")
        distance = health.get("discriminator/held_out_accuracy") if is_ranking else None
        if not is_ranking and ratio is not None:
            distance = -ratio
        if distance is not None and has_learned:
            self.distance = smooth(self.distance, distance, SMOOTHING)
        is_wrong = self.distance is not None and is_ranking and self.distance < 0.5
        bounds = (LEAST_WEIGHT, GREATEST_WEIGHT)
        is_measured = self.distance is not None and not is_wrong and not self.is_closed
        if is_measured and self.distance is not None:
            self.strength = next_weight(
                self.strength, self.distance, config.target, config.rate, bounds
            )
        return metrics | {
            "constraint/distance": self.distance,
            "constraint/weight": self.strength,
            "constraint/state": constraint_state(self.strength, bounds) if is_measured else None,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what moves."""
        return {"strength": self.strength, "margin": self.margin, "distance": self.distance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.strength, self.margin = state["strength"], state["margin"]
        self.distance = state["distance"]
