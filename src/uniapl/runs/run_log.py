"""What a run writes and shows while it goes: rows, rollouts, evaluations, trackers, the terminal.

Only the first rank of a run has one: the others compute in silence.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from uniapl.config.schema import Config
from uniapl.evaluation import write_evaluation
from uniapl.files import json_line, write_text
from uniapl.health import HealthWatch
from uniapl.runs.checkpoint import step_name
from uniapl.runs.instruction_watch import InstructionWatch
from uniapl.runs.metrics import MetricsFile, logged_definition
from uniapl.runs.progress import RunProgress
from uniapl.runs.rollout_log import logged_rows
from uniapl.runs.run_folder import RunFolder
from uniapl.runs.trackers import Trackers
from uniapl.training.step import StepResult


class RunLog:
    """The run folder's logs, open for the steps to come."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        meanings: Mapping[str, str],
        evaluated: Mapping[str, str],
        device: torch.device,
    ) -> None:
        """Start the trackers, and write what the run is.

        Args:
            config: Resolved.
            folder: Claimed; rows and files of later steps than its checkpoint's go.
            meanings: Of the metrics of a step, by name.
            evaluated: Of the metrics of an evaluation.
            device: The policy's.

        Raises:
            InputError: A tracker cannot start.
        """
        self.config, self.folder = config, folder
        self.health, self.instructions = HealthWatch(), InstructionWatch()
        if folder.state:
            self.health = HealthWatch(**folder.state.get("health_watch", {}))
            self.instructions = InstructionWatch(**folder.state.get("instructions", {}))
        self.trackers = Trackers(config, folder.path, folder.run_id)
        folder.start(config, {**meanings, **evaluated}, str(device))
        self.metrics = MetricsFile(folder.path / "metrics.jsonl", meanings, folder.step)
        self._define(self.metrics.logged)

    @contextmanager
    def showing(self, done: int, *, quiet: bool, json: bool) -> Iterator[None]:
        """Show steps as they come; tell the trackers all steps before them.

        Args:
            done: Steps before this process.
            quiet: As `RunProgress`.
            json: As `RunProgress`.
        """
        steps = self.config.training.steps
        with (
            RunProgress(steps, done, quiet=quiet, json=json) as self.progress,
            self.trackers.reporting_to(self.progress.warn),
        ):
            yield

    def step(self, done: StepResult) -> None:
        """Write and show a step."""
        num_logged = len(self.metrics.logged)
        row = self.metrics.write(done.step, done.metrics)
        if len(self.metrics.logged) > num_logged:
            self._define(self.metrics.logged)
        self.trackers.log(done.step, done.metrics)
        self._log_rollouts(done)
        self.progress.step(done.step, row)
        warm = 2 * self.config.discriminator.warmup_steps
        warnings = self.health.warnings(done.step, done.metrics, warm)
        if done.rollouts is not None:
            warnings += self.instructions.warnings(done.step, done.rollouts.rollouts)
        for line in warnings:
            self.progress.warn(line)

    def evaluation(
        self, step: int, results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write and show an evaluation."""
        self._define(name for name in results if "/" in name)
        write_evaluation(self.folder.path / "evaluations" / step_name(step), results, rows)
        self.trackers.log_evaluation(step, results)
        self.progress.evaluation(results, self.config.evaluation.best_metric)

    def state_dict(self) -> dict[str, Any]:
        """Make sure that rows are on disk; return what a run that goes on needs in order to warn as this one would."""
        self.metrics.sync()
        return {
            "health_watch": asdict(self.health),
            "instructions": asdict(self.instructions),
        }

    def close(self) -> None:
        """Close the files."""
        self.metrics.close()

    def _define(self, logged: Iterable[str]) -> None:
        self.folder.define({name: logged_definition(name) for name in logged})

    def _log_rollouts(self, done: StepResult) -> None:
        count = self.config.training.rollouts_logged_per_step
        if done.rollouts is None or not count:
            return
        folder = self.folder.path / "rollouts"
        folder.mkdir(exist_ok=True)
        rows = logged_rows(done, count)
        text = "".join(json_line(row) + "\n" for row in rows)
        write_text(folder / f"{step_name(done.step)}.jsonl", text)
