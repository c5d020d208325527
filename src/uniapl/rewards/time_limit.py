"""A time limit for a function that runs on the main thread, where reward functions expect to run.

Only the main thread can handle signals: a function that limits its own time by `signal.alarm`, as math-verify does,
fails on any other, often inside a `try` that makes a 0 of it. SIGALRM and its timer are therefore left to the
functions; SIGVTALRM is taken here. Who stops what:

1. At the limit a thread sends SIGVTALRM to the main thread, whose handler raises `OutOfTime`. That ends Python code,
   sleeping, and waiting for a network.
2. A timer of computing time sends the same signal, for C code that lets no other thread run but looks for signals,
   such as a regular expression that never comes to an end.
3. Where neither helped for `GRACE_SECONDS`, the thread writes one line and ends the process with status 1. Where C
   code does not even let the thread run, `faulthandler` does so, after the same time once more; it writes where
   each thread is.
"""

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

GRACE_SECONDS = 10.0
"""Time to react to the interruption, before the process ends."""

LONGEST_SECONDS = 1e8
"""Three years: timers take no infinity."""

STDERR = 2
"""By number: `sys.stderr` may be anything, and may be locked by who does not react."""


class OutOfTime(BaseException):
    """The time is over; no `Exception`, so that `except Exception` does not take it for a wrong answer."""


def call_within(seconds: float, label: str, call: Callable[[], T]) -> T:
    """Return what a function returns, if it does so in time; on the main thread only.

    The handler of SIGVTALRM stays after the call, since a signal may be under way.

    Args:
        seconds: The limit.
        label: How messages name the function.
        call: The function.

    Raises:
        OutOfTime: It took longer, whether or not it could be interrupted, and whatever it returned or raised then.
        BaseException: Whatever it raised in time.
    """
    seconds = min(seconds, LONGEST_SECONDS)
    deadline = time.monotonic() + seconds
    is_armed = True
    has_ended = threading.Event()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_armed
        remaining = deadline - time.monotonic()
        if is_armed and remaining > 0:  # several threads spend computing time faster than the clock
            signal.setitimer(signal.ITIMER_VIRTUAL, remaining)
        elif is_armed:
            is_armed = False  # once: what the function does to clean up is not interrupted again
            raise OutOfTime

    signal.signal(signal.SIGVTALRM, interrupt)
    watch = threading.Thread(target=_watch, args=(seconds, label, has_ended), daemon=True)
    try:
        try:
            watch.start()
            signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
            faulthandler.dump_traceback_later(seconds + 2 * GRACE_SECONDS, exit=True, file=STDERR)
            result = call()
        finally:
            is_armed = False
    except Exception as error:
        if time.monotonic() > deadline:
            raise OutOfTime from error
        raise
    finally:  # the interruption may have come just before it was disarmed
        is_armed = False
        has_ended.set()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        faulthandler.cancel_dump_traceback_later()
    if time.monotonic() > deadline:
        raise OutOfTime
    return result


def _watch(seconds: float, label: str, has_ended: threading.Event) -> None:
    """Interrupt the main thread at the limit, and end the process where that does not help."""
    if has_ended.wait(seconds):
        return
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    signal.pthread_kill(main_thread, signal.SIGVTALRM)
    if has_ended.wait(GRACE_SECONDS):
        return
    line = (
        f"\nerror: {label} took longer than its timeout_seconds {seconds:g} and could not be interrupted within "
        f"{GRACE_SECONDS:g} seconds; the process ends\n"
    )
    os.write(STDERR, line.encode())
    os._exit(1)
