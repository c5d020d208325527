"""Ctrl-C: the first one lets the step finish and the run save itself, the second one stops at once."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass(slots=True)
class Interrupt:
    """Whether the user has asked to stop."""

    is_set: bool = False


@contextmanager
def interrupts() -> Iterator[Interrupt]:
    """Turn the first SIGINT or SIGTERM into a flag that the loop reads between steps."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt  # signals reach the main thread only
        return

    def ask(_number: int, _frame: FrameType | None) -> None:
        if interrupt.is_set:
            raise KeyboardInterrupt
        interrupt.is_set = True
        sys.stderr.write("\nfinishing the step, then saving; press Ctrl-C again to stop at once\n")

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
