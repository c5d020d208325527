"""A comparison of arms (docs/comparison.md) as a table: values, and differences to the baseline, with intervals.

Input: `comparison.json` in a folder that `uniapl compare` wrote; output: texts for the template.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uniapl.errors import InputError
from uniapl.report.arms import Arm
from uniapl.report.results import EvaluationMetric, described_metrics, number_text

FILE = "comparison.json"
FORMAT = 1
"""The newest version of the file that this report understands."""


def read_comparison(folder: Path) -> Mapping[str, Any] | None:
    """Return the comparison that a folder holds; None if it holds none.

    Raises:
        InputError: The file is damaged, or of a newer format.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        is_known = result["format"] <= FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: is no comparison ({type(error).__name__}: {error})") from None
    if not is_known:
        raise InputError(f"{file}: format {result['format']}, this version reads up to {FORMAT}")
    return result


def runs_of(folder: Path, comparison: Mapping[str, Any]) -> list[Path]:
    """Return the run folders of the arms.

    Raises:
        InputError: One is not there any more.
    """
    runs = [folder / run for arm in comparison["arms"].values() for run in arm["runs"]]
    if missing := [run for run in runs if not run.is_dir()]:
        raise InputError(
            f"{missing[0]}: a run of {folder / FILE} is missing; restore it or compare again"
        )
    return runs


def arms_of_comparison(comparison: Mapping[str, Any], arms: Sequence[Arm]) -> dict[str, int]:
    """Return the comparison's name of an arm → the page's arm that holds its runs."""
    places = {
        run.folder.resolve().name: index for index, arm in enumerate(arms) for run in arm.runs
    }
    return {
        name: places[Path(arm["runs"][0]).name]
        for name, arm in comparison["arms"].items()
        if arm["runs"] and Path(arm["runs"][0]).name in places
    }


def compared_metrics(comparison: Mapping[str, Any]) -> list[EvaluationMetric]:
    """Return the metrics that have intervals: first what the comparison is about, last the loose readings."""
    arms = comparison["arms"]
    values = {
        name: [
            v
            for arm in arms.values()
            if name in arm["metrics"]
            for v in arm["metrics"][name]["by_seed"]
        ]
        for name, value in arms[comparison["baseline"]]["metrics"].items()
        if value["low"] is not None
    }
    metrics = described_metrics(values, comparison["definitions"])
    best = comparison.get("best_metric")
    return sorted(metrics, key=lambda metric: (metric.name != best, "_loose_" in metric.name))


def comparison_table(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics that have intervals as columns and the arms as rows, the baseline first."""
    baseline, arms = comparison["baseline"], comparison["arms"]
    metrics = compared_metrics(comparison)
    order = [baseline, *(name for name in arms if name != baseline)]
    return {
        "baseline": baseline,
        "n": comparison["num_prompts"],
        "metrics": metrics,
        "rows": [
            {
                "name": name,
                "setting": ", ".join(arms[name]["setting"]),
                "seeds": len(arms[name]["seeds"]),
                "cells": _cells(arms[name], comparison["differences"].get(name), metrics),
                "cost": [number_text(value, 0) for value in arms[name]["cost"].values()],
            }
            for name in order
        ],
    }


def _cells(
    arm: Mapping[str, Any],
    difference: Mapping[str, Any] | None,
    metrics: Sequence[EvaluationMetric],
) -> list[dict[str, str]]:
    cells: list[dict[str, str]] = []
    seeds = len(difference["seeds"]) if difference else 0
    for metric in metrics:
        value = arm["metrics"].get(metric.name)
        gap = difference["metrics"].get(metric.name) if difference else None
        cells.append(
            {
                "text": metric.written(value["mean"]) if value else "–",
                "interval": _interval(metric, value),
                "gap": metric.signed(gap["mean"]) if gap else "",
                "gap_interval": _interval(metric, gap, is_difference=True),
                "verdict": metric.verdict(gap["low"], gap["high"], seeds) if gap else "",
            }
        )
    return cells


def _interval(
    metric: EvaluationMetric,
    value: Mapping[str, float | None] | None,
    *,
    is_difference: bool = False,
) -> str:
    if value is None or value["low"] is None or value["high"] is None:
        return ""
    return metric.interval(value["low"], value["high"], is_difference=is_difference)
