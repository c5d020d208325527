"""Slices: a long piece of work as commands that are run once each, in as many calls as it takes.

A command that is cut off at the end of a slice is asked to save itself, and goes on in the next one.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from uniapl.errors import InputError
from uniapl.files import write_text

GRACE_SECONDS = 120.0
"""What a command has, at the end of a slice, to finish its step and save."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A command that makes part of the result."""

    name: str
    words: tuple[str, ...]
    can_change: bool = False
    """Whether other options add to what it made before; else they need another folder."""


class Slice:
    """One call: it runs what is not done yet until the time is up."""

    def __init__(self, folder: Path, minutes: float) -> None:
        self.folder = folder
        self.deadline = time.monotonic() + 60 * minutes
        self.grace = min(GRACE_SECONDS, 15 * minutes)
        self.is_left = False
        self.failed: list[str] = []
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    def run(self, piece: Piece) -> bool:
        """Run a piece unless it is done or the time is up; return whether it is done.

        Raises:
            InputError: It was done with other options.
            KeyboardInterrupt: Ctrl-C; the command has saved itself.
        """
        done = self.folder / f"{piece.name}.done"
        command = json.dumps(piece.words)
        if done.exists():
            if done.read_text() == command:
                return True
            if not piece.can_change:
                raise InputError(
                    f"--output: {self.folder} holds {piece.name} made with other options; choose another folder"
                )
        seconds = self.deadline - self.grace - time.monotonic()
        if seconds <= 0:
            self.is_left = True
            return False
        print(f"{piece.name}: at most {seconds:.0f} s", file=sys.stderr, flush=True)
        status = self._call(piece, seconds)
        if status == 0:
            write_text(done, command)
        elif status is None:
            self.is_left = True
            print(f"{piece.name}: not finished in this slice", file=sys.stderr)
        else:
            self.failed.append(piece.name)
            print(
                f"{piece.name} failed (status {status}): {self._last_words(piece)}", file=sys.stderr
            )
        return status == 0

    def _call(self, piece: Piece, seconds: float) -> int | None:
        """Return the command's status; None if its time was up."""
        with (
            self._log(piece).open("a") as log,
            (self.folder / "logs" / f"{piece.name}.out").open("w") as out,
        ):
            # a session of its own: Ctrl-C reaches it once, from here
            process = subprocess.Popen(
                [sys.executable, "-m", *piece.words], stdout=out, stderr=log, start_new_session=True
            )
            try:
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._stop(process)
                return None
            except KeyboardInterrupt:
                self._stop(process)
                raise

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        """Ask the command to save itself; end it if it does not in time."""
        process.send_signal(signal.SIGINT)
        try:
            process.wait(self.grace)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _log(self, piece: Piece) -> Path:
        return self.folder / "logs" / f"{piece.name}.log"

    def _last_words(self, piece: Piece) -> str:
        lines = self._log(piece).read_text(errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'it said nothing'} (see {self._log(piece)})"
