"""What a person sees while a run goes: a live line on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import IO, Any, Self, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from uniapl.console import UnfailingStream

SHOWN = {
    "reward": "reward/mean",
    "sft": "objective/sft",
    "D acc": "discriminator/accuracy",
    "λ": "objective/adversarial_weight",
    "tokens": "rollout/completion_tokens_mean",
}
"""The few numbers that matter, with their short names."""
PLAIN_EVERY_SECONDS = 10.0


def output_console() -> Console:
    """Return the console on which a command says what it does."""
    stream = sys.stdout if isinstance(sys.stdout, UnfailingStream) else UnfailingStream(sys.stdout)
    # no emoji codes: paths may hold words between colons
    return Console(file=cast(IO[str], stream), highlight=False, soft_wrap=True, emoji=False)


class RunProgress:
    """Shows steps as they are done."""

    def __init__(self, steps: int, done: int) -> None:
        self.console = output_console()
        self.steps = steps
        self.first = done
        self._started = time.monotonic()
        self._last_plain = -PLAIN_EVERY_SECONDS
        self._bar: Progress | None = None
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("step {task.completed}/{task.total}"),
                BarColumn(bar_width=24),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[numbers]}"),
                console=self.console,
            )
            self._task = self._bar.add_task("", total=steps, completed=done, numbers="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line above the live one."""
        self.console.print(line, markup=False)

    def step(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Show that a step is done."""
        numbers = "  ".join(
            f"{name} {value:.3g}"
            for name, key in SHOWN.items()
            if (value := metrics.get(key)) is not None
        )
        if self._bar:
            self._bar.update(self._task, completed=step, numbers=numbers)
            return
        now = time.monotonic()
        if now - self._last_plain < PLAIN_EVERY_SECONDS and step != self.steps:
            return
        self._last_plain = now
        left = (now - self._started) / (step - self.first) * (self.steps - step)
        self.say(f"step {step}/{self.steps}  {_clock(left)} left  {numbers}")


def results_table(columns: Mapping[str, Mapping[str, Any]], metrics: Iterable[str]) -> Table | None:
    """Return metrics as rows and evaluations as columns, ± standard errors; None where no evaluation has any."""
    names = [n for n in metrics if any(isinstance(r.get(n), float) for r in columns.values())]
    if not names:
        return None
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for title in columns:
        table.add_column(title, justify="right")
    for name in names:
        table.add_row(name, *(_with_error(results, name) for results in columns.values()))
    return table


def _with_error(results: Mapping[str, Any], name: str) -> str:
    """Return a value and, where it is known, its standard error over prompts."""
    value, error = results.get(name), results.get(f"{name}_stderr")
    if value is None:
        return ""
    return f"{value:.3f}{'' if error is None else f' ± {error:.3f}'}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
