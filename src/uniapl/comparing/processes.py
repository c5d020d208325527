"""Run commands side by side, a few at a time, and stop them when asked to.

Each command is a process group of its own: Ctrl-C reaches the commands through this module only, so
that each is asked once and can save itself. On Linux a command is asked as well if this process dies.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uniapl.machine import num_cores
from uniapl.runs.signals import Interrupt, interrupts

Process = subprocess.Popen[bytes]

POLL_SECONDS = 0.2
PR_SET_PDEATHSIG = 1
"""Linux, prctl(2)."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run and where its output goes."""

    words: tuple[str, ...]
    log: Path


def threads_per_job(jobs: int) -> int:
    """Return the share of this machine's threads, or of OMP_NUM_THREADS, that each job gets."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, (int(wanted) if wanted.isdigit() else num_cores()) // jobs)


def run_all(
    commands: Sequence[Command], jobs: int, variables: Mapping[str, str]
) -> Iterator[tuple[Command, int]]:
    """Run all commands, `jobs` at a time, and yield each with its exit status when it has ended.

    Args:
        commands: What to run, in this order.
        jobs: How many at the same time; they share this machine's threads.
        variables: Added to the environment.

    Raises:
        Stopped: A signal asked to stop; all commands have ended.
    """
    waiting = list(reversed(commands))
    running: dict[Command, Process] = {}
    environment = {**os.environ, **variables, "OMP_NUM_THREADS": str(threads_per_job(jobs))}
    die_with_us = _die_with_us()
    try:
        with interrupts() as interrupt:
            while running or (waiting and not interrupt.is_set):
                while waiting and len(running) < jobs and not interrupt.is_set:
                    command = waiting.pop()
                    running[command] = _start(command, environment, die_with_us)
                ended = _wait(running, interrupt)
                for command in ended:
                    yield command, running.pop(command).returncode
                if interrupt.is_set:
                    _signal(running.values(), signal.SIGINT)
                    _wait_all(running.values())
                    raise interrupt.stopped()
    finally:  # a second Ctrl-C, or the reader of our results has failed
        _signal(running.values(), signal.SIGKILL)
        _wait_all(running.values())


def _start(
    command: Command, environment: dict[str, str], die_with_us: Callable[[], None] | None
) -> Process:
    with command.log.open("ab") as log:
        return subprocess.Popen(
            command.words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            process_group=0,
            preexec_fn=die_with_us,
        )


def _wait(running: dict[Command, Process], interrupt: Interrupt) -> list[Command]:
    """Return the commands that have ended, at least one unless there was an interrupt."""
    while True:
        ended = [command for command, process in running.items() if process.poll() is not None]
        if ended or interrupt.is_set:
            return ended
        time.sleep(POLL_SECONDS)


def _wait_all(processes: Iterable[Process]) -> None:
    for process in processes:
        process.wait()


def _signal(processes: Iterable[Process], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _die_with_us() -> Callable[[], None] | None:
    """Return what a command does before it starts: ask for a SIGTERM at the death of its parent."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: little is safe between fork and exec

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask
