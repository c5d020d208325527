"""`compare`: train every arm on one budget, tune each on the same size of grid, report with intervals.

Settings are chosen on the validation prompts with a seed of their own; the test prompts and the reported
seeds choose nothing. Every run is `uniapl train` in a process of its own. A finished one is a small file
in `arms/` that is never made again, so a comparison that was killed goes on, and one with more seeds,
arms or grid points trains only those.
"""

import json
import re
import shutil
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from uniapl.comparing.arms import TUNING_SEED, Arm, Plan, Setting, budget, check_plan
from uniapl.comparing.outcomes import outcomes
from uniapl.comparing.processes import Command, run_all, threads_per_job
from uniapl.comparing.statistics import Record, difference, summarise
from uniapl.comparing.table import comparison_tables
from uniapl.config import dump_chosen, load_config, resolved
from uniapl.config.schema import Config
from uniapl.errors import InputError, TrainingError
from uniapl.files import write_text
from uniapl.runs.checkpoint import POLICY, step_name
from uniapl.runs.evaluation_before import FOLDER
from uniapl.runs.metrics import read_rows
from uniapl.runs.progress import console_on
from uniapl.runs.run_folder import MAY_CHANGE, changed_settings

FORMAT = 1
"""Version of `comparison.json` and of the files in `arms/`."""
NAME_CHARACTERS = 120
"""Of the settings in a file's name."""
WRONG_INPUT, SIGNALLED = 2, 128
"""Exit statuses of `uniapl train`; one above the second: a signal stopped it."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a comparison."""

    arm: Arm
    setting: Setting
    seed: int
    tunes: bool

    @property
    def name(self) -> str:
        """Name of its folder and its file, the same whatever else is compared."""
        text = "-".join(self.setting)
        slug = re.sub(r"[^\w.=-]", "_", text)[:NAME_CHARACTERS]
        if slug != text:
            slug += f"-{zlib.crc32(text.encode()):08x}"
        end = "tuning" if self.tunes else f"seed-{self.seed}"
        return "-".join(part for part in (self.arm.name, slug, end) if part)


def compare(config: Config, plan: Plan, folder: Path, jobs: int = 1) -> dict[str, Any]:
    """Run what is missing of a comparison and return what `comparison.json` holds.

    Args:
        config: What all arms share; its method, seed and output_dir play no role.
        plan: The arms.
        folder: Where everything goes.
        jobs: Runs at the same time; they share this machine's threads.

    Raises:
        InputError: Something in the plan or the config is wrong, or the folder holds another comparison.
        TrainingError: A run failed; its name and last words.
        KeyboardInterrupt: Ctrl-C; the running runs saved themselves, the same command goes on.
    """
    if jobs < 1:
        raise InputError(f"--jobs: must be at least 1, got {jobs}")
    file = _write_config(config, folder)
    config = load_config(file)
    check_plan(plan, file, config)
    comparison = _Comparison(config, plan, folder, jobs)
    chosen, tuning = comparison.tune()
    result = comparison.report(chosen, tuning)
    write_text(folder / "comparison.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    for table in comparison_tables(result):
        comparison.console.print(table)
    comparison.console.print(f"comparison: {folder / 'comparison.json'}", markup=False)
    return result


def _write_config(config: Config, folder: Path) -> Path:
    """Write what the arms share, once; a later call must mean the same."""
    file = folder / "config.yaml"
    if (folder / "metrics.jsonl").exists():
        raise InputError(f"--output: {folder} holds a run; choose another folder")
    if file.exists():
        may_change = (MAY_CHANGE | {"method", "seed"}) - {"training.steps"}
        if not (folder / "arms").is_dir():
            raise InputError(f"--output: {file} belongs to no comparison; choose another folder")
        if changed := changed_settings(load_config(file), resolved(config), may_change):
            raise InputError(
                f"--output: {folder} holds a comparison with other settings: {'; '.join(changed)}"
            )
    for name in ("arms", "runs", "logs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_text(file, dump_chosen(resolved(config)))
    return file


class _Comparison:
    """One call of `compare`."""

    def __init__(self, config: Config, plan: Plan, folder: Path, jobs: int) -> None:
        self.config = config
        self.plan = plan
        self.folder = folder
        self.jobs = jobs
        self.console: Console = console_on(sys.stdout)

    def tune(self) -> tuple[dict[str, Setting], dict[str, list[dict[str, Any]]]]:
        """Return the best setting of every arm, and all settings with their value."""
        jobs = [
            Job(arm, setting, TUNING_SEED, tunes=True)
            for arm in self.plan.arms
            if arm.is_tuned
            for setting in arm.settings
        ]
        errors = self._run(jobs)
        metric = self.config.evaluation.best_metric
        tried: dict[str, list[dict[str, Any]]] = {}
        for job in jobs:
            value = None if job.name in errors else self._record(job)["metrics"].get(metric)
            line = {"setting": list(job.setting), metric: value}
            if error := errors.get(job.name):
                line["error"] = error
            tried.setdefault(job.arm.name, []).append(line)
        return {arm.name: _best(arm, tried.get(arm.name), metric) for arm in self.plan.arms}, tried

    def report(
        self, chosen: Mapping[str, Setting], tuning: Mapping[str, Sequence[Any]]
    ) -> dict[str, Any]:
        """Run the chosen settings with all seeds and return the content of `comparison.json`."""
        runs = {
            arm.name: [Job(arm, chosen[arm.name], seed, tunes=False) for seed in arm.seeds]
            for arm in self.plan.arms
        }
        if errors := self._run([job for jobs in runs.values() for job in jobs]):
            lines = "".join(f"\n  {name}: {error}" for name, error in errors.items())
            raise TrainingError(
                f"{len(errors)} run(s) failed; the same command tries them again{lines}"
            )
        stored = {name: [self._record(job) for job in jobs] for name, jobs in runs.items()}
        records = {name: [_as_record(r) for r in several] for name, several in stored.items()}
        arms: dict[str, Any] = {}
        for arm in self.plan.arms:
            arms[arm.name] = {
                "method": arm.method,
                "setting": list(chosen[arm.name]),
                **summarise(records[arm.name]),
                "tuning": list(tuning.get(arm.name, ())),
                "runs": [f"runs/{job.name}" for job in runs[arm.name]],
            }
        baseline = self.plan.baseline
        first = stored[baseline][0]
        return {
            "format": FORMAT,
            "baseline": baseline,
            "best_metric": self.config.evaluation.best_metric,
            "own_metrics": first["own_metrics"],
            "num_prompts": len(first["prompts"]),
            "budget": dict(budget(self.config)),
            "grid_size": len(self.plan.arms[0].settings),
            "jobs": self.jobs,
            "environment": first["environment"],
            "definitions": first["definitions"],
            "expert": first["expert"],
            "before": _means([r["before"] for r in stored[baseline]]),
            "arms": arms,
            "differences": {
                name: difference(several, records[baseline])
                for name, several in records.items()
                if name != baseline
            },
        }

    def _run(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Run the jobs that are not done; return the last words of those that failed.

        Raises:
            InputError: A run refused its input: so would the others.
            KeyboardInterrupt: A run was interrupted.
        """
        todo = [job for job in jobs if not self._file(job).exists()]
        if done := len(jobs) - len(todo):
            self._say(f"{done} of {len(jobs)} runs are done already")
        at_once = max(1, min(self.jobs, len(todo)))
        if todo:
            self._say(
                f"{len(todo)} runs, {at_once} at a time with {threads_per_job(at_once)} thread(s) each"
            )
        by_log = {self._log(job): job for job in todo}
        errors: dict[str, str] = {}
        variables = {FOLDER: str((self.folder / "before").absolute())}
        commands = [self._command(job) for job in todo]
        for command, status in run_all(commands, at_once, variables):
            job = by_log[command.log]
            if status == 0:
                self._collect(job)
                continue
            words = _last_line(command.log).removeprefix("error: ")
            if status == WRONG_INPUT:
                raise InputError(f"{job.name}: {words}")
            if status > SIGNALLED:
                raise KeyboardInterrupt
            errors[job.name] = f"{words} (see {command.log})"
            self._say(f"{job.name} failed: {errors[job.name]}")
        return errors

    def _command(self, job: Job) -> Command:
        words = [
            *(sys.executable, "-m", "uniapl.cli", "train", str(self.folder / "config.yaml")),
            f"method={job.arm.method}",
            *job.setting,
            f"seed={job.seed}",
            f"output_dir={self._run_folder(job)}",
            "training.resume=auto",
        ]
        if job.tunes:
            words.append(f"evaluation.prompts={self.config.evaluation.validation_prompts}")
        return Command(tuple(words), self._log(job))

    def _collect(self, job: Job) -> None:
        """Keep of a finished run what the comparison needs, and drop its checkpoints."""
        run = self._run_folder(job)
        record = _read_run(run, job, self.config.training.steps)
        write_text(self._file(job), json.dumps(record, allow_nan=False) + "\n")
        shutil.rmtree(run / "checkpoints")
        if job.tunes:
            shutil.rmtree(run / POLICY)
        metric = self.config.evaluation.best_metric
        value, seconds = record["metrics"].get(metric), record["cost"]["seconds"]
        shown = "" if value is None else f"{metric} {value:.3f}, "
        self._say(f"{job.name}: {shown}{seconds:.0f} s")

    def _record(self, job: Job) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self._file(job).read_text(encoding="utf-8"))
        if record["format"] != FORMAT or record["setting"] != list(job.setting):
            raise InputError(f"{self._file(job)}: was written for something else; remove it")
        return record

    def _file(self, job: Job) -> Path:
        return self.folder / "arms" / f"{job.name}.json"

    def _run_folder(self, job: Job) -> Path:
        return (self.folder / "runs" / job.name).absolute()

    def _log(self, job: Job) -> Path:
        return self.folder / "logs" / f"{job.name}.log"

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False)


def _read_run(run: Path, job: Job, steps: int) -> dict[str, Any]:
    """Return what `arms/` keeps of a run."""
    last = run / "evaluations" / step_name(steps)
    results = json.loads((last / "results.json").read_text(encoding="utf-8"))
    before = json.loads((run / "evaluations" / step_name(0) / "results.json").read_text())
    samples = [json.loads(x) for x in (last / "samples.jsonl").read_text("utf-8").split("\n") if x]
    rows = read_rows(run / "metrics.jsonl")
    definitions = json.loads((run / "definitions.json").read_text(encoding="utf-8"))
    return {
        "format": FORMAT,
        "arm": job.arm.name,
        "method": job.arm.method,
        "setting": list(job.setting),
        "seed": job.seed,
        "metrics": _numbers(results),
        "before": _numbers(before),
        "expert": _numbers(results.get("expert", {})),
        "cost": {
            "trained_tokens": rows[-1]["data/trained_tokens"],
            "sampled_tokens": rows[-1]["data/sampled_tokens"],
            "seconds": sum(row["time/step_seconds"] for row in rows),
        },
        "environment": json.loads((run / "environment.json").read_text(encoding="utf-8")),
        "definitions": {name: definitions[name] for name in results if name in definitions},
        "own_metrics": list(samples[0]["metrics"]),
        "prompts": [row["key"] for row in samples],
        "columns": outcomes(samples),
    }


def _as_record(stored: Mapping[str, Any]) -> Record:
    return Record(**{name: stored[name] for name in Record.__slots__})


def _numbers(results: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the metrics of `results.json`."""
    return {
        name: value
        for name, value in results.items()
        if (value is None or isinstance(value, float)) and not name.endswith("_stderr")
    }


def _means(several: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """Return the mean of each name that all have a number for."""
    columns = {name: [m.get(name) for m in several] for name in several[0]}
    return {
        name: sum(numbers) / len(numbers)
        for name, values in columns.items()
        if len(numbers := [v for v in values if v is not None]) == len(values)
    }


def _best(arm: Arm, tried: Sequence[Mapping[str, Any]] | None, metric: str) -> Setting:
    """Return the setting with the highest value, the first of equals."""
    if tried is None:
        return arm.settings[0]
    valued = [line for line in tried if line[metric] is not None]
    if not valued:
        raise TrainingError(f"arm {arm.name}: no setting of its grid could be measured")
    return tuple(max(valued, key=lambda line: line[metric])["setting"])


def _last_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
