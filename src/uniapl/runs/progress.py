"""What a run shows: notes with time and level on standard error, a live line on a terminal, results on standard output.

Notes go through the logger `uniapl`. A program that gives this logger a handler of its own gets them there instead.
"""

import logging
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from uniapl.console import UnfailingStream
from uniapl.files import json_line

SHOWN = {
    "reward": "reward/mean",
    "sft": "objective/sft",
    "D acc": "discriminator/accuracy",
    "margin": "discriminator/margin",
    "λ": "objective/adversarial_weight",
    "tokens": "rollout/completion_tokens_mean",
}
"""The few numbers that matter, with their short names."""
PLAIN_EVERY_SECONDS = 10.0
LOGGER = logging.getLogger("uniapl")


def console_on(stream: TextIO) -> Console:
    """Return a console on which a command says what it does."""
    unfailing = stream if isinstance(stream, UnfailingStream) else UnfailingStream(stream)
    # no emoji codes: paths may hold words between colons
    return Console(file=cast(IO[str], unfailing), highlight=False, soft_wrap=True, emoji=False)


class _ConsoleHandler(logging.Handler):
    """Prints records above a console's live line."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
        )

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(self.format(record), markup=False)


class RunProgress:
    """Shows steps as they are done."""

    def __init__(self, steps: int, done: int, *, quiet: bool = False, json: bool = False) -> None:
        """Show nothing yet.

        Args:
            steps: Of the whole run.
            done: Of them, before this process.
            quiet: Warnings and results alone.
            json: A line of JSON per step and per result on standard output, in place of results in words.
        """
        self._notes, self._results = console_on(sys.stderr), console_on(sys.stdout)
        self._is_quiet, self._prints_json = quiet, json
        self.steps = steps
        self.first = done
        self._started = time.monotonic()
        self._last_plain = -PLAIN_EVERY_SECONDS
        self._handler: logging.Handler | None = None
        self._logger_before = (LOGGER.level, LOGGER.propagate)
        self._bar: Progress | None = None
        if self._notes.is_terminal and not quiet and not json:
            self._bar = Progress(
                TextColumn("step {task.completed}/{task.total}"),
                BarColumn(bar_width=24),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[numbers]}"),
                console=self._notes,
                redirect_stdout=self._results.is_terminal,  # what a pipe reads stays in the pipe
            )
            self._task = self._bar.add_task("", total=steps, completed=done, numbers="")

    def __enter__(self) -> Self:
        if not LOGGER.handlers:
            self._handler = _ConsoleHandler(self._notes)
            LOGGER.addHandler(self._handler)
            LOGGER.setLevel(logging.WARNING if self._is_quiet else logging.INFO)
            LOGGER.propagate = False
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
        if self._handler:
            LOGGER.removeHandler(self._handler)
            level, LOGGER.propagate = self._logger_before
            LOGGER.setLevel(level)

    def say(self, line: str) -> None:
        """Note something, above the live line."""
        LOGGER.info("%s", line)

    def warn(self, line: str) -> None:
        """Note what a user may have to act on."""
        LOGGER.warning("%s", line)

    def step(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Show that a step is done."""
        if self._prints_json:
            self._print_json("step", {"step": step, **metrics})
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

    def evaluation(self, results: Mapping[str, Any], metric: str) -> None:
        """Show that the policy was evaluated; in words, the metric that chooses the best checkpoint."""
        if self._prints_json:
            self._print_json("evaluation", results)
        value = results.get(metric)
        if isinstance(value, float):
            self.say(f"step {results['step']}: {metric} {value:.3f}")

    def stopped(self, step: int) -> None:
        """Say that the run is saved and not finished."""
        self.say(f"saved step {step}; go on with training.resume=auto")
        if self._prints_json:
            self._print_json("stopped", {"step": step})

    def result(self, table: Table | None, policy: Path) -> None:
        """Print what came out, below the live line.

        Args:
            table: The evaluations.
            policy: Folder of the trained model.
        """
        if self._bar:
            self._bar.stop()
        if self._prints_json:
            self._print_json("result", {"step": self.steps, "policy": str(policy)})
            return
        if table is not None:
            self._results.print(table)
        self._results.print(f"policy: {policy}", markup=False)

    def _print_json(self, event: str, values: Mapping[str, Any]) -> None:
        self._results.file.write(json_line({"event": event, **values}) + "\n")
        self._results.file.flush()


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
