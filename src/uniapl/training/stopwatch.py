"""How long the stages of a step take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds of each stage of a step."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._stages: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count what runs inside towards a stage."""
        started = time.perf_counter()
        yield
        key = f"time/{stage}_seconds"
        self._stages[key] = self._stages.get(key, 0.0) + time.perf_counter() - started

    def seconds(self) -> dict[str, float]:
        """Return the stages' times and that since the start."""
        return {**self._stages, "time/step_seconds": time.perf_counter() - self._started}
