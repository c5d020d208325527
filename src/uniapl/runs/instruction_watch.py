"""Types of instructions from which the reward teaches nothing, said aloud.

What is said about metrics stands in `uniapl.health`, which the report reads too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from uniapl.health import QUIET_STEPS
from uniapl.instructions import strict
from uniapl.types import Rollout

CHECKED_EVERY = 5
"""Steps between two looks at the types of instructions: checking costs as much as the reward itself."""
FEWEST_CHECKS = 100
"""Rollouts that asked for a type before "never" and "always" mean anything."""


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
        passed = strict(ids, columns["kwargs"], rollout.answer)
        for name, followed in zip(ids, passed, strict=True):
            before, asked = self.counts.get(name, (0, 0))
            self.counts[name] = (before + (followed and not rollout.is_truncated), asked + 1)
