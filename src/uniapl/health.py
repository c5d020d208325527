"""What is normal for a metric of a step, and what to say where it is not.

This is the one table of bands and sentences. The terminal says them while a run trains, and the report says
them afterwards from `metrics.jsonl`: both call `HealthWatch`, so they cannot disagree. No torch is needed.

A step's value is noisy, so a judgement is about the mean of the last steps and its 95 % interval. Where the
interval holds the edge of the band, the mean is neither sound nor broken: it cannot be told.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

WINDOW_STEPS = 20
"""A judgement is about the mean over so many last steps."""
FEWEST_STEPS = 3
"""Fewer steps say nothing: two may agree by luck."""
QUIET_STEPS = 25
"""A warning is not repeated for so many steps."""

STUDENT_95 = (
    *(12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23),
    *(2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09),
)
"""Half a 95 % interval of a mean of 2, 3, … values, in standard errors that the values themselves gave."""

State = Literal["sound", "unsure", "off"]


@dataclass(frozen=True, slots=True)
class Band:
    """What is normal for a metric; None is an open side."""

    low: float | None
    high: float | None
    below: str = ""
    """What it means to lie below, and what to do."""
    above: str = ""

    @property
    def text(self) -> str:
        """The band in words."""
        if self.low is None:
            return f"at most {self.high:.2f}"
        if self.high is None:
            return f"at least {self.low:.2f}"
        return f"{self.low:.2f} to {self.high:.2f}"


BANDS: dict[str, Band] = {
    "discriminator/margin": Band(
        0.0,
        None,
        below="the discriminator takes rollouts for the expert's sooner than held-out demonstrations, so that λ is 0: "
        "raise discriminator.learning_rate or discriminator.warmup_steps",
    ),
    "discriminator/accuracy": Band(
        0.5,
        0.95,
        "the discriminator ranks the expert below the policy: raise discriminator.learning_rate "
        "or discriminator.warmup_steps; if it is frozen, the policy games it: lower "
        "objective.adversarial_weight",
        "the discriminator tells expert and policy apart almost always, so that its credit saturates: lower "
        "discriminator.learning_rate",
    ),
    "discriminator/length_correlation": Band(
        -0.6,
        0.6,
        "the discriminator judges completions by being short: give it demonstrations of more lengths",
        "the discriminator judges completions by being long: give it demonstrations of more lengths",
    ),
    "discriminator/repetition_correlation": Band(
        None,
        0.6,
        above="the discriminator likes completions that repeat themselves, so the policy may game it: lower "
        "objective.adversarial_weight, or take a discriminator that learns",
    ),
    "constraint/state": Band(
        None,
        0.5,
        above="λ is at its maximum and the constraint is still not met: raise constraint.target, or give the "
        "run more demonstrations",
    ),
    "rollout/truncated_fraction": Band(
        None,
        0.3,
        above="many rollouts are cut off before they end: raise rollout.max_completion_tokens",
    ),
    "rollout/zero_std_group_fraction": Band(
        None,
        0.9,
        above="in almost all groups every reward is the same: the reward term has no gradient; check the "
        "reward functions, raise rollout.group_size or change the prompts' difficulty",
    ),
    "policy/sampling_gap": Band(
        None,
        0.1,  # bfloat16 alone makes 0.04
        above="trainer and generator disagree about log-probs: set rollout.importance_cap, or "
        "model.dtype=float32",
    ),
    "optimizer/moved_fraction": Band(
        0.1,
        None,
        below="the updates change few weights, being too small for their number type: raise "
        "optimizer.learning_rate; if optimizer/grad_norm is 0, no term has anything to teach",
    ),
    "policy/clip_fraction": Band(
        None,
        0.5,
        above="most tokens are clipped: lower optimizer.learning_rate or rollout.updates_per_rollout",
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One metric, judged."""

    name: str
    state: State
    line: str
    """The sentence, the same on a page and in a terminal."""


def student_factor(count: int) -> float:
    """Return half a 95 % interval of a mean of `count` values, at least 2, in standard errors (Student's t).

    Beyond 20 values it stays that of 20, which is a little too wide.
    """
    return STUDENT_95[min(count, len(STUDENT_95) + 1) - 2]


def judge(name: str, values: Sequence[float]) -> Finding:
    """Judge a metric by its last values.

    The standard error is that of the mean over steps and takes steps for independent.

    Args:
        name: A metric of `BANDS`.
        values: Its values, one per step, at least one; the last `WINDOW_STEPS` count.
    """
    band, recent = BANDS[name], values[-WINDOW_STEPS:]
    mean = sum(recent) / len(recent)
    if len(recent) < FEWEST_STEPS:
        steps = f"{len(recent)} step{'' if len(recent) == 1 else 's'}"
        return Finding(name, "unsure", f"{name} {mean:.2f}: cannot tell from {steps}")
    variance = sum((value - mean) ** 2 for value in recent) / (len(recent) - 1)
    error = math.sqrt(variance / len(recent))
    told, margin = f"{name} {mean:.2f} ± {error:.2f}", student_factor(len(recent)) * error
    if band.low is not None and mean + margin < band.low:
        return Finding(name, "off", f"{told}: {band.below}")
    if band.high is not None and mean - margin > band.high:
        return Finding(name, "off", f"{told}: {band.above}")
    for edge in (band.low, band.high):
        if edge is not None and abs(mean - edge) < margin:
            text = f"{told}: cannot tell; its 95 % interval holds {edge:.2f}, the edge of its band"
            return Finding(name, "unsure", text)
    return Finding(name, "sound", f"{told}: in its band, {band.text}")


def quiet_steps(warmup_steps: int) -> int:
    """Return how many steps nothing is said of the discriminator: its warm-up, and as many in which λ rises."""
    return 2 * warmup_steps


@dataclass(slots=True)
class HealthWatch:
    """Watches metrics from step to step; its fields are what a resumed run needs."""

    recent: dict[str, list[float]] = field(default_factory=dict)
    """The last values of every metric of `BANDS`, oldest first."""
    last_warned: dict[str, int] = field(default_factory=dict)

    def warnings(
        self, step: int, metrics: Mapping[str, float | None], quiet_until: int
    ) -> list[str]:
        """Take in a step and return one line per metric that is surely out of its band.

        Args:
            step: Updates done.
            metrics: The step's; a metric that is absent or None changes nothing.
            quiet_until: What the discriminator does up to this step does not count: it is warming up.
        """
        lines: list[str] = []
        for name in BANDS:
            value = metrics.get(name)
            is_warming = step <= quiet_until and name.startswith(("discriminator/", "constraint/"))
            if value is None or is_warming:
                continue
            recent = self.recent.setdefault(name, [])
            recent.append(value)
            del recent[:-WINDOW_STEPS]
            is_repeated = step - self.last_warned.get(name, -QUIET_STEPS) < QUIET_STEPS
            if not is_repeated and (found := judge(name, recent)).state == "off":
                self.last_warned[name] = step
                lines.append(found.line)
        return lines

    def findings(self) -> list[Finding]:
        """Judge every metric that has had a value, in the order of `BANDS`."""
        return [judge(name, self.recent[name]) for name in BANDS if self.recent.get(name)]
