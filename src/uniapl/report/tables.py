"""Texts and tables of the page: what was trained, what came of it, where it came from."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from uniapl.report.arms import Arm, evaluation_at
from uniapl.report.reading import Run, setting
from uniapl.report.results import (
    EvaluationMetric,
    Measured,
    arm_change,
    arm_value,
    base_value,
    described_metrics,
    expert_value,
    measured,
    measured_in,
    metric_values,
    run_change,
)


def facts(arms: Sequence[Arm]) -> dict[str, Any]:
    """Return what was trained, on what, for how long."""
    runs = [run for arm in arms for run in arm.runs]
    items = [
        ("Demonstrations", _names(runs, "data.demonstrations")),
        ("Preference prompts", _names(runs, "data.prompts")),
        ("Steps", _range([run.steps[-1] for run in runs])),
        ("Per step", _per_step(runs)),
        ("Seed" if len(runs) == 1 else "Seeds", _seeds(runs)),
        ("Training time", _training_time(runs)),
    ]
    created = sorted(str(run.environment.get("created") or "") for run in runs)[-1]
    return {
        "items": [(name, text) for name, text in items if text],
        "created": created[:16].replace("T", " "),
    }


def _names(runs: Sequence[Run], key: str) -> str:
    """Return the distinct values of a path-like setting, by their last part."""
    values = [setting(run.config, key) for run in runs]
    names = [str(value).rstrip("/").rpartition("/")[2] for value in values if value]
    return ", ".join(dict.fromkeys(names))


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _per_step(runs: Sequence[Run]) -> str:
    keys = ("data.demonstrations_per_step", "data.prompts_per_step", "rollout.group_size")
    found = {tuple(setting(run.config, key) for key in keys) for run in runs}
    if len(found) != 1 or None in (values := found.pop()):
        return ""
    demonstrations, prompts, group = values
    return f"{demonstrations} demonstrations, {prompts} prompts × {group} rollouts"


def _seeds(runs: Sequence[Run]) -> str:
    return ", ".join(dict.fromkeys(str(run.config.get("seed", "?")) for run in runs))


def _training_time(runs: Sequence[Run]) -> str:
    seconds = [
        sum(value or 0.0 for value in run.metrics.get("time/step_seconds", ())) for run in runs
    ]
    total = sum(seconds)
    if not total:
        return ""
    each = "" if len(runs) == 1 else " in all"
    if total < 100:
        return f"{total:.0f} s{each}"
    return (f"{total / 60:.0f} min" if total < 5400 else f"{total / 3600:.1f} h") + each


def notices(arms: Sequence[Arm]) -> list[str]:
    """Return what a reader must know before believing the page."""
    lines: list[str] = []
    for arm in arms:
        for run in arm.runs:
            name = run.folder.resolve().name
            planned = run.planned_steps
            if planned and run.steps[-1] < planned:
                lines.append(
                    f"{name}: {run.steps[-1]} of {planned} steps; the run is not finished."
                )
            if not run.evaluations:
                lines.append(f"{name}: no evaluation yet.")
            elif run.evaluations[-1].step == 0:
                lines.append(f"{name}: evaluated before training only.")
    last_steps = {run.evaluations[-1].step for arm in arms for run in arm.runs if run.evaluations}
    if len(last_steps) > 1:
        steps = ", ".join(str(step) for step in sorted(last_steps))
        lines.append(f"The last evaluations are of different steps ({steps}).")
    return lines


def results_table(
    arms: Sequence[Arm], metrics: Sequence[EvaluationMetric]
) -> dict[str, Any] | None:
    """Return the table of one run (a column per evaluation) or of several (a row per arm)."""
    if not metrics:
        return None
    runs = [run for arm in arms for run in arm.runs]
    if len(runs) == 1:
        return _one_run(runs[0], arms, metrics)
    return _many_runs(arms, metrics)


def _one_run(run: Run, arms: Sequence[Arm], metrics: Sequence[EvaluationMetric]) -> dict[str, Any]:
    evaluations = list(run.evaluations)
    if len(evaluations) > 2:
        evaluations = [evaluations[0], evaluations[-1]]
    return {
        "kind": "run",
        "columns": [
            "before" if evaluation.step == 0 else f"step {evaluation.step}"
            for evaluation in evaluations
        ],
        "has_change": len(evaluations) > 1,
        "rows": [
            {
                "metric": metric,
                "cells": [
                    _cell(metric, measured(evaluation, metric.name)) for evaluation in evaluations
                ],
                "change": metric.change(run_change(run, metric.name)),
                "expert": _cell(metric, expert_value(arms, metric.name)),
            }
            for metric in metrics
        ],
        "n": run.evaluations[-1].results.get("n"),
        "left_out": len(run.evaluations) - len(evaluations),
    }


def _many_runs(arms: Sequence[Arm], metrics: Sequence[EvaluationMetric]) -> dict[str, Any]:
    bases = [base_value(arms, metric.name) for metric in metrics]
    rows: list[dict[str, Any]] = []
    for index, arm in enumerate(arms):
        cells: list[dict[str, Any]] = []
        for metric in metrics:
            value, change = arm_value(arm, metric.name, -1), arm_change(arms, arm, metric.name)
            told = metric.change(change, len(arm.runs))
            cells.append(_cell(metric, value) | {"change": told})
        rows.append({"arm": index, "name": arm.name, "runs": len(arm.runs), "cells": cells})
    experts = [expert_value(arms, metric.name) for metric in metrics]
    numbers = {
        evaluation.results.get("n")
        for arm in arms
        for run in arm.runs
        if (evaluation := evaluation_at(run, -1)) is not None
    }
    return {
        "kind": "arms",
        "metrics": list(metrics),
        "base": [_cell(metric, base) for metric, base in zip(metrics, bases, strict=True)],
        "rows": rows,
        "expert": [_cell(metric, value) for metric, value in zip(metrics, experts, strict=True)],
        "n": numbers.pop() if len(numbers) == 1 else None,
        "has_seeds": any(len(arm.runs) > 1 for arm in arms),
    }


def _cell(metric: EvaluationMetric, value: Measured | None) -> dict[str, Any]:
    return {
        "text": metric.written(value.value if value else None),
        "error": metric.error(value),
    }


def benchmarks(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return what `uniapl evaluate RUN` found: an entry for each run and benchmark, its rows by metric."""
    runs = [run for arm in arms for run in arm.runs]
    definitions = {name: text for run in runs for name, text in run.definitions.items()}
    found: list[dict[str, Any]] = []
    for index, arm in enumerate(arms):
        for run in arm.runs:
            for name, results in run.benchmarks.items():
                values = {metric: [value] for metric, value in metric_values(results).items()}
                metrics = described_metrics(values, definitions)
                rows = [
                    {"metric": metric, **_cell(metric, measured_in(results, metric.name))}
                    for metric in metrics
                ]
                where = run.folder.resolve().name if len(runs) > 1 else ""
                found.append(
                    {
                        "arm": index,
                        "name": name,
                        "run": where,
                        "n": results.get("n"),
                        "missing": results.get("num_missing"),
                        "rows": rows,
                    }
                )
    return found


def provenance(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return one entry per run: how to make it again and what made it."""
    entries: list[dict[str, Any]] = []
    for index, arm in enumerate(arms):
        for run in arm.runs:
            environment = run.environment
            command = environment.get("command")
            if isinstance(command, list):
                command = shlex.join(str(word) for word in command)
            versions = environment.get("versions")
            items = [
                ("Folder", str(run.folder)),
                ("Created", environment.get("created")),
                *(("Resumed", _resumed(start, environment)) for start in _starts(environment)),
                ("Command", command),
                ("Seed", run.config.get("seed")),
                ("Git commit", environment.get("git_commit")),
                ("Platform", environment.get("platform")),
                ("Device", environment.get("device")),
                ("Threads", environment.get("threads")),
                ("Versions", _listed(versions) if isinstance(versions, Mapping) else versions),
            ]
            entries.append(
                {
                    "arm": index,
                    "name": arm.name,
                    "seed": run.config.get("seed"),
                    "items": [(name, "unknown" if v is None else str(v)) for name, v in items],
                    "config": run.config,
                }
            )
    return entries


def _starts(environment: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return each time the run went on after it was first started."""
    found = environment.get("resumed")
    return (
        [start for start in found if isinstance(start, Mapping)] if isinstance(found, list) else []
    )


def _resumed(start: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """Say from which step a run went on, when, and in what else than where it was first started."""
    others = [
        f"{name.replace('_', ' ')} {_listed(value) if isinstance(value, Mapping) else value}"
        for name in ("git_commit", "platform", "device", "threads", "versions")
        if (value := start.get(name)) != first.get(name)
    ]
    changed = f"; other than at first: {', '.join(others)}" if others else ""
    return f"from step {start.get('step')}, {start.get('created')}{changed}"


def _listed(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
