"""What stops a command, and how an error of somebody else's code becomes one line."""

import os
import signal
import traceback


class _OneLine(BaseException):
    """An error whose message is all that a user needs; IPython and Jupyter show it without a traceback."""

    is_said_elsewhere: bool | None = None
    """Whether another rank of the run says it, so that this one ends without a word; None: the ranks have not met."""

    def _render_traceback_(self) -> list[str]:
        """Return the lines that a notebook shows: IPython asks exceptions for this method."""
        if os.environ.get("UNIAPL_DEBUG") == "1":
            return "".join(traceback.format_exception(self)).splitlines()
        return f"{type(self).__name__}: {self}".splitlines()


class InputError(_OneLine, ValueError):
    """Something the user gave is wrong; the message is one line that says what, where and what to do."""


class TrainingError(_OneLine, RuntimeError):
    """A run cannot go on (a loss that is not finite, a reward that raised); one line, no traceback."""


class Stopped(_OneLine, KeyboardInterrupt):
    """A signal has asked to stop; what was running has saved itself, unless a second signal came."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    @property
    def status(self) -> int:
        """The exit status that shells give to a process which a signal ended."""
        return 128 + self.number


def is_said_elsewhere(error: BaseException) -> bool:
    """Whether another rank says an error: of ranks that have not met, which all find the same, the first one does."""
    settled = getattr(error, "is_said_elsewhere", None)
    if settled is None:
        return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0"
    return bool(settled)


def one_line(error: BaseException, limit: int = 1000) -> str:
    """Return the first line of what an error says, or its type if it says nothing; cut after `limit` characters."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line if len(line) <= limit else line[: limit - 1] + "…"
