"""Signals that ask a run to stop: the first lets the step finish and the run save itself, the second stops at once.

SIGINT is Ctrl-C, SIGTERM what `kill` and schedulers send, SIGHUP a terminal that closes, and SIGUSR1 what Slurm can be
told to send before its time limit (`sbatch --signal=USR1@300`).
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from uniapl.errors import Stopped

STOPPING = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)  # Windows has neither of the last two
)


@dataclass(slots=True)
class Interrupt:
    """Whether somebody has asked to stop, and by which signal."""

    number: int | None = None

    @property
    def is_set(self) -> bool:
        """Whether somebody has."""
        return self.number is not None

    def stopped(self) -> Stopped:
        """Return what to raise once everything is saved."""
        assert self.number is not None
        return Stopped(self.number)


@contextmanager
def interrupts(*, is_silent: bool = False) -> Iterator[Interrupt]:
    """Turn the first signal that asks to stop into a flag that the loop reads between steps; the second raises.

    A SIGHUP that is ignored, as under `nohup`, stays ignored.

    Args:
        is_silent: Do not say what a signal does: another rank says it.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt  # signals reach the main thread only
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        if interrupt.is_set:
            raise Stopped(number)
        interrupt.number = number
        if number == signal.SIGINT:
            line = "finishing the step, then saving; press Ctrl-C again to stop at once"
        else:
            name = signal.Signals(number).name
            line = f"{name}: finishing the step, then saving; a second signal stops at once"
        if not is_silent:
            sys.stderr.write(f"\n{line}\n")

    previous = {
        number: signal.signal(number, ask)
        for number in STOPPING
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
