"""Silent failures said aloud: one line when a metric leaves its band, and what to do about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from uniapl.instructions import strict
from uniapl.types import Rollout

QUIET_STEPS = 25
"""A warning is not repeated for so many steps."""
SMOOTHING = 0.8
"""Weight of the past: one odd step is no news."""

CHECKED_EVERY = 5
"""Steps between two looks at the types of instructions: checking costs as much as the reward itself."""
FEWEST_CHECKS = 100
"""Rollouts that asked for a type before "never" and "always" mean anything."""


@dataclass(frozen=True, slots=True)
class _Band:
    """What is normal for a metric."""

    low: float
    high: float
    below: str
    above: str


_BANDS: dict[str, _Band] = {
    "discriminator/accuracy": _Band(
        0.35,
        0.95,
        "the discriminator ranks the expert below the policy: raise discriminator.learning_rate "
        "or discriminator.warmup_steps",
        "the discriminator tells expert and policy apart almost always: its credit saturates; lower "
        "discriminator.learning_rate",
    ),
    "discriminator/length_correlation": _Band(
        -0.6,
        0.6,
        "the discriminator judges completions by being short: give it demonstrations of more "
        "lengths or lower discriminator.learning_rate",
        "the discriminator judges completions by being long: give it demonstrations of more "
        "lengths or lower discriminator.learning_rate",
    ),
    "rollout/truncated_fraction": _Band(
        -1.0,
        0.3,
        "",
        "many rollouts are cut off, and cut ones teach nothing: raise rollout.max_completion_tokens",
    ),
    "rollout/zero_std_group_fraction": _Band(
        -1.0,
        0.9,
        "",
        "in almost all groups every reward is the same: the reward term has no gradient; check the "
        "reward functions, raise rollout.group_size or change the prompts' difficulty",
    ),
    "policy/sampling_gap": _Band(
        -1.0,
        0.1,  # bfloat16 alone makes 0.04
        "",
        "trainer and generator disagree about log-probs: set rollout.importance_cap, or "
        "model.dtype=float32",
    ),
    "optimizer/moved_fraction": _Band(
        0.1,
        1.0,
        "the updates change few weights, being too small for their number type: raise "
        "optimizer.learning_rate; if optimizer/grad_norm is 0, no term has anything to teach",
        "",
    ),
    "policy/clip_fraction": _Band(
        -1.0,
        0.5,
        "",
        "most tokens are clipped: lower optimizer.learning_rate or rollout.updates_per_rollout",
    ),
}


@dataclass(slots=True)
class HealthWatch:
    """Watches smoothed metrics from step to step."""

    averages: dict[str, float] = field(default_factory=dict)
    last_warned: dict[str, int] = field(default_factory=dict)

    def warnings(
        self, step: int, metrics: Mapping[str, float | None], quiet_until: int
    ) -> list[str]:
        """Return one line per metric out of its band.

        Args:
            step: Updates done.
            metrics: The step's.
            quiet_until: No warning about the discriminator before this step: it is warming up.
        """
        lines: list[str] = []
        for name, band in _BANDS.items():
            value = metrics.get(name)
            if value is None:
                continue
            past = self.averages.get(name, value)
            average = self.averages[name] = SMOOTHING * past + (1 - SMOOTHING) * value
            is_warming = name.startswith("discriminator/") and step <= quiet_until
            is_repeated = step - self.last_warned.get(name, -QUIET_STEPS) < QUIET_STEPS
            if band.low <= average <= band.high or is_warming or is_repeated:
                continue
            self.last_warned[name] = step
            lines.append(
                f"{name} {average:.2f}: {band.below if average < band.low else band.above}"
            )
        return lines


@dataclass(slots=True)
class InstructionWatch:
    """Finds types of instructions from which the reward teaches nothing: never, or always, followed."""

    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Followed and asked for, by type, since the type was last judged."""
    last_warned: dict[str, int] = field(default_factory=dict)

    def warnings(self, step: int, rollouts: Sequence[Rollout]) -> list[str]:
        """Return one line per type that no rollout, or every rollout, followed.

        A truncated rollout follows nothing, as in the reward.

        Args:
            step: Updates done.
            rollouts: The step's.
        """
        if step % CHECKED_EVERY:
            return []
        for rollout in rollouts:
            self._count(rollout)
        lines: list[str] = []
        for name, (followed, asked) in list(self.counts.items()):
            if asked < FEWEST_CHECKS:
                continue
            del self.counts[name]
            is_repeated = step - self.last_warned.get(name, -QUIET_STEPS) < QUIET_STEPS
            if 0 < followed < asked or is_repeated:
                continue
            self.last_warned[name] = step
            lines.append(
                f"{name}: all of {asked} rollouts followed it, so it moves no reward inside a group; ask "
                "for more of it or leave it out"
                if followed
                else f"{name}: none of {asked} rollouts followed it, so its reward teaches nothing; show it "
                "in demonstrations or ask for less"
            )
        return lines

    def _count(self, rollout: Rollout) -> None:
        columns = rollout.prompt.columns
        ids = columns.get("instruction_id_list")
        if not ids:
            return
        passed = strict(ids, columns["kwargs"], rollout.completion)
        for name, followed in zip(ids, passed, strict=True):
            before, asked = self.counts.get(name, (0, 0))
            self.counts[name] = (before + (followed and not rollout.is_truncated), asked + 1)
