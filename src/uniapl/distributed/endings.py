"""How ranks end together: one that fails says why in one line, and the others follow it within seconds.

A rank that fails leaves a note in the store where the ranks have met. The others find it when a sum or an exchange
breaks, or, where they compute or wait for a silent device, by a thread that looks for it.
"""

import os
import threading
import time
from datetime import timedelta
from typing import Any

from torch import distributed as dist

from uniapl.errors import TrainingError, one_line

LOOKS_EVERY_SECONDS = 1.0
GRACE_SECONDS = 5.0
"""So long a rank may take to end by itself after another one has failed."""
TIMEOUT_VARIABLE = "UNIAPL_COLLECTIVE_TIMEOUT_SECONDS"
TIMEOUT_SECONDS = 5400.0
"""Longer than any single call of a metric may take (one hour): the others wait for it."""


class Endings:
    """The ranks' notes to each other about failures."""

    def __init__(self, rank: int, run: str, timeout_seconds: float) -> None:
        """Begin to look for the notes of others.

        Args:
            rank: This process.
            run: A name that the ranks share and that no earlier run of these processes had.
            timeout_seconds: Of the collectives, for messages.
        """
        self.rank, self.timeout_seconds = rank, timeout_seconds
        self._run = run
        self._is_over = threading.Event()
        self._store = _own_store()
        self._watcher: threading.Thread | None = None
        if self._store is not None:
            self._watcher = threading.Thread(target=self._watch, name="other ranks", daemon=True)
            self._watcher.start()

    def explain(self, what: str, error: RuntimeError) -> TrainingError:
        """Return what to raise where a collective has broken: in silence if the rank that failed has said why."""
        deadline = time.monotonic() + GRACE_SECONDS
        has_timed_out = "timed out" in str(error).lower()
        while not has_timed_out and time.monotonic() < deadline:
            if self._count("failed"):
                found = TrainingError("another rank has failed")
                found.is_said_elsewhere = True
                return found
            time.sleep(0.1)
        if has_timed_out:
            return TrainingError(
                f"rank {self.rank} has waited {self.timeout_seconds:g} seconds for the others in {what}; one of them "
                f"hangs or is far slower ({TIMEOUT_VARIABLE} sets the limit)"
            )
        return TrainingError(
            f"rank {self.rank} has lost another rank in {what}: it was killed, perhaps for want of memory "
            f"({one_line(error, 200)})"
        )

    def failed(self, error: BaseException) -> None:
        """Leave the note that this rank fails; the first to leave one says its error, later ones keep silent."""
        self._stop_watching()
        settled = getattr(error, "is_said_elsewhere", None)
        if settled:
            return  # the rank that says it leaves the note
        is_later = self._count("failed", add=1) > 1
        if settled is None:
            error.is_said_elsewhere = is_later  # type: ignore[attr-defined]

    def over(self) -> None:
        """Stop looking: the run has ended well."""
        self._stop_watching()

    def _stop_watching(self) -> None:
        """End the thread that watches: one that asks the store while the interpreter ends aborts the process."""
        self._is_over.set()
        if self._watcher is not None:
            self._watcher.join(timeout=2 * GRACE_SECONDS)

    def _count(self, key: str, add: int = 0) -> int:
        """Return how many ranks have left a note, after adding one's own; as if alone where the store is gone."""
        if self._store is None:
            return add
        try:
            return int(self._store.add(f"{self._run}/{key}", add))
        except (RuntimeError, ValueError):  # its process has ended
            self._store = None
            return add

    def _watch(self) -> None:
        """End this process where another rank has failed and the main thread does not notice."""
        watched = _own_store()
        while not self._is_over.wait(LOOKS_EVERY_SECONDS):
            try:
                has_failed = watched is not None and watched.add(f"{self._run}/failed", 0) > 0
            except (RuntimeError, ValueError):
                return  # collectives break by themselves, or time out
            if has_failed and not self._is_over.wait(GRACE_SECONDS):
                os._exit(1)  # the main thread may be inside a call that never returns


def _own_store() -> Any:
    """Return a connection of one's own to the store of the launch; None where there is none to reach."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if not address or not port:
        return None
    try:
        return dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            address,
            int(port),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=10),
        )
    except (RuntimeError, ValueError):
        return None
