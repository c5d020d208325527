"""What runs measured over their steps, and a panel of it."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.drawing import Panel, Series, ticks
from uniapl import load_config

Curves = dict[str, list[dict[str, Any]]]
"""Arm → its runs: seed, steps, and a list of values per metric."""


def curves_of(runs: Iterable[tuple[str, Path]], metrics: Sequence[str]) -> Curves:
    """Read what every evaluation of some runs has measured.

    Args:
        runs: The arm of each, and its folder.
        metrics: Names of what is read.
    """
    curves: Curves = {}
    for arm, folder in runs:
        files = sorted((folder / "evaluations").glob("step_*/results.json"))
        results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        row: dict[str, Any] = {"seed": load_config(folder / "config.yaml").seed}
        row["steps"] = [one["step"] for one in results]
        row |= {name: [round(one[name], 4) for one in results] for name in metrics}
        curves.setdefault(arm, []).append(row)
    return curves


def over_steps(
    curves: Curves, metric: str, title: str, colours: Mapping[str, str], *, is_share: bool = True
) -> Panel:
    """Return a panel of one metric: a thick line per arm, the mean of its seeds, and a thin one per seed.

    Args:
        curves: What was measured.
        metric: Which of it.
        title: Of the panel.
        colours: Arm → colour, in the order of drawing; of these, arms without runs are left out.
        is_share: Whether the metric is a share, in per cent.
    """
    series = []
    for arm, colour in colours.items():
        if runs := curves.get(arm):
            lines = [list(zip(row["steps"], row[metric], strict=True)) for row in runs]
            points = [
                (step, statistics.mean(value for _, value in at_step))
                for at_step in zip(*lines, strict=True)
                for step in [at_step[0][0]]
            ]
            last = f"{points[-1][1]:.0%}" if is_share else f"{points[-1][1]:.2f}"
            thin = lines if len(lines) > 1 else []
            series.append(Series(f"{arm} {last}", colour, points, thin))
    drawn = [row for arm in colours for row in curves.get(arm, [])]
    values = [value for row in drawn for value in row[metric]]
    steps = [one.points[-1][0] for one in series]
    from_zero = [] if min(values) > max(values) / 2 else [0]
    return Panel(
        title,
        series,
        ticks([0, max(steps)]),
        ticks([*from_zero, *values]),
        is_y_share=is_share,
        x_title="step",
    )
