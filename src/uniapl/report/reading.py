"""Read run folders (docs/run-folder.md) into `Run`; everything wrong is an `InputError` of one line.

The stages after this one see only `Run`, so no other file of the report opens a run's files.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from uniapl.errors import InputError

FORMAT = 1
"""The newest version of the run folder that this report understands."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One `evaluations/step_*` folder."""

    step: int
    results: Mapping[str, Any]
    """The whole of `results.json`."""
    samples: Sequence[Row]
    """Rows of `samples.jsonl`; empty for the evaluations between the first and the last."""


@dataclass(frozen=True, slots=True)
class Run:
    """What the report knows of one run."""

    folder: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    """Empty if the run has no `environment.json`."""
    definitions: Mapping[str, str]
    steps: Sequence[int]
    metrics: Mapping[str, Sequence[float | None]]
    """Parallel to `steps`; None where a row has null or lacks the name."""
    evaluations: Sequence[Evaluation]
    """In order of their step."""
    rollouts: Sequence[Row]
    """Logged rollouts with their `step` added, from steps spread evenly over the run."""
    num_rollouts: int | None
    """How many the run logged; None if not all files were opened."""
    benchmarks: Mapping[str, Row] = field(default_factory=dict)
    """Folder name → `results.json` of what `uniapl evaluate RUN` wrote."""

    @property
    def method(self) -> str:
        """The config's `method`."""
        return str(self.config.get("method", "?"))

    @property
    def planned_steps(self) -> int | None:
        """The config's `training.steps`."""
        steps = setting(self.config, "training.steps")
        return steps if isinstance(steps, int) else None


def setting(config: Mapping[str, Any], key: str) -> Any:
    """Return the value at a dotted key, None if it or a section on the way is absent."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def read_run(folder: Path, max_rollouts: int) -> Run:
    """Read one run folder.

    Args:
        folder: The run's folder, finished or still being written.
        max_rollouts: About how many logged rollouts to keep.

    Raises:
        InputError: It is no run folder, has no metrics, or a row is malformed.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the output_dir of a run")
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder}: not a run folder (it has no config.yaml)")
    environment = _read_object(folder / "environment.json", required=False)
    _check_format(folder, environment)
    steps, metrics = _read_metrics(folder / "metrics.jsonl")
    rollouts, num_rollouts = _read_rollouts(folder / "rollouts", max_rollouts)
    definitions = _read_object(folder / "definitions.json", required=False)
    return Run(
        folder=folder,
        config=_read_config(folder / "config.yaml"),
        environment=environment,
        definitions={name: str(meaning) for name, meaning in definitions.items()},
        steps=steps,
        metrics=metrics,
        evaluations=_read_evaluations(folder / "evaluations"),
        rollouts=rollouts,
        num_rollouts=num_rollouts,
        benchmarks={
            path.name: _read_object(path / "results.json", required=True)
            for path in sorted((folder / "evaluations").glob("*"))
            if not path.name.startswith("step_") and (path / "results.json").is_file()
        },
    )


def _check_format(folder: Path, environment: Row) -> None:
    found = environment.get("format", FORMAT)
    if not isinstance(found, int) or found > FORMAT:
        raise InputError(
            f"{folder}/environment.json: format {found!r}, this version of uniapl reads up to "
            f"{FORMAT}; make the report with the version that trained"
        )


def _read_config(path: Path) -> Row:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML ({_one_line(error)})") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: expected a mapping of settings")
    return config


def _read_metrics(path: Path) -> tuple[list[int], dict[str, list[float | None]]]:
    """Return the steps in order and every metric as a column; the last row of a step wins."""
    if not path.is_file():
        raise InputError(f"{path}: missing; the run has written no metrics")
    rows: dict[int, Row] = {}
    for number, row in _read_lines(path):
        step = row.get("step")
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise InputError(f"{path}:{number}: `step` must be a whole number, got {step!r}")
        for name, value in row.items():
            if value is not None and not _is_number(value):
                raise InputError(
                    f"{path}:{number}: {name!r} must be a number or null, got {_short(value)}"
                )
        rows[step] = row
    if not rows:
        raise InputError(f"{path}: empty; the run has finished no step yet")
    steps = sorted(rows)
    names = {name: None for step in steps for name in rows[step] if name != "step"}
    return steps, {name: [rows[step].get(name) for step in steps] for name in names}


def _read_evaluations(folder: Path) -> list[Evaluation]:
    found = sorted(
        (_step_of(path), path)
        for path in folder.glob("step_*")
        if (path / "results.json").is_file()
    )
    evaluations: list[Evaluation] = []
    for index, (step, path) in enumerate(found):
        results = _read_object(path / "results.json", required=True)
        samples = path / "samples.jsonl"
        wanted = index in (0, len(found) - 1) and samples.is_file()
        rows = [_checked_sample(samples, *line) for line in _read_lines(samples)] if wanted else []
        evaluations.append(Evaluation(step=step, results=results, samples=rows))
    return evaluations


def _checked_sample(path: Path, number: int, row: Row) -> Row:
    for name in ("prompt", "response"):
        if not isinstance(row.get(name), str):
            raise InputError(
                f"{path}:{number}: {name!r} must be a string, got {_short(row.get(name))}"
            )
    return row


def _read_rollouts(folder: Path, limit: int) -> tuple[list[Row], int | None]:
    """Keep whole steps, spread evenly and with the last one, until about `limit` rows."""
    paths = sorted(folder.glob("step_*.jsonl"), key=_step_of)
    if not paths:
        return [], 0
    per_file = max(1, sum(1 for _ in _read_lines(paths[-1])))
    num_files = max(1, min(len(paths), limit // per_file))
    stride = (len(paths) - 1) / max(1, num_files - 1)
    chosen = sorted({round(len(paths) - 1 - k * stride) for k in range(num_files)})
    rows: list[Row] = []
    for index in chosen:
        path = paths[index]
        for number, row in _read_lines(path):
            for name in ("prompt", "completion"):
                if not isinstance(row.get(name), str):
                    raise InputError(f"{path}:{number}: {name!r} must be a string")
            rows.append({**row, "step": _step_of(path)})
    return rows, len(rows) if len(chosen) == len(paths) else None


def _step_of(path: Path) -> int:
    digits = path.name.removeprefix("step_").removesuffix(".jsonl")
    if not digits.isdecimal():
        raise InputError(f"{path}: expected a name such as step_000100")
    return int(digits)


def _read_lines(path: Path) -> list[tuple[int, Row]]:
    """Return (line number, object) of every line that is not blank.

    A last line without its newline is skipped if it is no JSON: a run that was killed leaves one.
    """
    rows: list[tuple[int, Row]] = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
        except ValueError as error:
            if number == len(lines):
                break
            raise InputError(f"{path}:{number}: not valid JSON ({_one_line(error)})") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: expected an object, got {_short(row)}")
        rows.append((number, row))
    return rows


def _read_object(path: Path, *, required: bool) -> dict[str, Any]:
    if not path.is_file() and not required:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({_one_line(error)})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected an object, got {_short(value)}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; write null")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
