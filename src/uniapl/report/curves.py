"""The curves that stand open on the page, most telling first, and reward against length.

Input: arms; output: plain lists for charts.js, which draws a metric's own series where a chart names it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uniapl.health import BANDS
from uniapl.known_metrics import BETTER, read_definition
from uniapl.report.arms import Arm, curve, ends
from uniapl.report.reading import Run
from uniapl.report.results import (
    EvaluationMetric,
    expert_value,
    measured,
    pooled,
)

MAX_DOTS = 2400
"""Rollouts drawn in all; of more, evenly many of each arm."""
MAX_EVALUATION_CURVES = 3
"""Evaluation metrics whose curves stand open; the rest is folded."""
SECOND = ("prompt_level_strict_acc", "completion_tokens_w1")
"""Evaluation metrics that follow the headline metric."""

SCHEDULED = ("_weight", "/learning_rate", "constraint/state")
"""How names of metrics end that carry no noise: smoothing would only bend them."""

Chart = dict[str, Any]


TELLING = {
    "reward/mean": "Reward of the rollouts",
    "rollout/zero_std_group_fraction": "Groups without signal",
    "rollout/completion_tokens_mean": "Length of the rollouts",
    "discriminator/accuracy": "Discriminator accuracy",
    "objective/adversarial_weight": "λ, the adversarial term's weight",
    "objective/sft": "Surprise at demonstrations",
    "policy/entropy": "Entropy of the policy",
}
"""Metrics of the steps that are worth a look in every run → their titles."""


def telling_charts(
    arms: Sequence[Arm], names: Sequence[str], definitions: Mapping[str, str]
) -> list[Chart]:
    """Return the charts of `TELLING` that the runs have values of, in that order.

    A chart leaves out arms whose values are 0 all along, as the weight of an unused term is. Unit and direction are
    those that the run folders state.
    """
    charts: list[Chart] = []
    for metric, title in TELLING.items():
        used = [i for i, arm in enumerate(arms) if _is_used(arm, metric)]
        if metric not in names or not used:
            continue
        unit, direction = read_definition(definitions.get(metric, ""))
        charts.append(
            {
                "title": title,
                "arms": used,
                "unit": unit,
                "better": "" if direction == "neither" else BETTER[direction],
                "metrics": [[metric, ""]],
                "percent": unit == "%",
                "band": band_of(metric),
            }
        )
    return charts


def band_of(metric: str) -> list[float | None] | None:
    """Return where a metric should lie, as the terminal's warnings see it; None without a band."""
    band = BANDS.get(metric)
    return None if band is None else [band.low, band.high]


def _is_used(arm: Arm, name: str) -> bool:
    return any(value for run in arm.runs for value in run.metrics.get(name, ()))


def step_curves(
    arms: Sequence[Arm], names: Sequence[str], definitions: Mapping[str, str]
) -> dict[str, Any]:
    """Return every metric of the steps: its meaning, and a series per arm that has values of it."""
    return {name: _metric(arms, name, definitions.get(name, "")) for name in names}


def _metric(arms: Sequence[Arm], name: str, meaning: str) -> dict[str, Any]:
    series: list[dict[str, Any]] = []
    for index, arm in enumerate(arms):
        found = curve(arm, name, len(arms))
        if found is None:
            continue
        told = {key: _round(value) for key, value in ends(arm, name).items()}
        one = {"arm": index, "x": found.steps, "y": _rounded(found.mean), "ends": told}
        if name.endswith(SCHEDULED):
            one["exact"] = True
        if len(arm.runs) > 1:
            one |= {"low": _rounded(found.low), "high": _rounded(found.high)}
        series.append(one)
    return {"definition": meaning, "series": series}


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    return [_round(value) for value in values]


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def evaluation_curves(
    arms: Sequence[Arm], metrics: Sequence[EvaluationMetric], headline: str | None
) -> list[Chart]:
    """Return every metric over the steps of the evaluations, with 95 % bands, the headline metric first.

    Empty if no run was evaluated at two steps.
    """
    if max(len(run.evaluations) for arm in arms for run in arm.runs) < 2:
        return []
    charts: list[Chart] = []
    order = [name for name in (headline, *SECOND) if name is not None]
    ranked = sorted(metrics, key=lambda m: order.index(m.name) if m.name in order else len(order))
    for metric in ranked:
        series = [one for index, arm in enumerate(arms) if (one := _evaluated(index, arm, metric))]
        if not series:
            continue
        expert = expert_value(arms, metric.name)
        charts.append(
            {
                "title": metric.label,
                "definition": metric.meaning,
                "unit": metric.unit,
                "better": "" if metric.direction == "neither" else metric.better,
                "percent": metric.is_fraction,
                "series": series,
                "line": None if expert is None else {"value": expert.value, "label": "expert"},
            }
        )
    return charts


def _evaluated(index: int, arm: Arm, metric: EvaluationMetric) -> dict[str, Any] | None:
    by_step: dict[int, list[Any]] = {}
    for run in arm.runs:
        for evaluation in run.evaluations:
            if (value := measured(evaluation, metric.name)) is not None:
                by_step.setdefault(evaluation.step, []).append(value)
    steps = sorted(by_step)
    found = [value for step in steps if (value := pooled(by_step[step])) is not None]
    if not found:
        return None
    one: dict[str, Any] = {"arm": index, "x": steps, "y": _rounded([v.value for v in found])}
    if any(value.stderr for value in found):
        lows, highs = [v.low for v in found], [v.high for v in found]
        if metric.is_fraction:
            lows = [None if low is None else max(0.0, low) for low in lows]
            highs = [None if high is None else min(1.0, high) for high in highs]
        one |= {"low": _rounded(lows), "high": _rounded(highs)}
    first, last = found[0], found[-1]
    one["ends"] = {
        "first": _round(first.value) if len(found) > 1 else None,
        "last": _round(last.value),
        "error": _round(last.stderr),
    }
    return one


def reward_against_length(arms: Sequence[Arm]) -> Chart | None:
    """Return the logged rollouts as dots: words against reward; None if no run logged a reward.

    `correlation` is Pearson's r over an arm's dots and `error` its standard error, (1 − r²) / √(n − 2).
    """
    each = max(40, MAX_DOTS // len(arms))
    found: list[dict[str, Any]] = []
    for index, arm in enumerate(arms):
        rows = [dot for run in arm.runs for dot in _dots(run)]
        if not rows:
            continue
        stride = -(-len(rows) // each)
        kept = rows[::stride]
        found.append(
            {
                "arm": index,
                "x": [words for words, _, _ in kept],
                "y": [_round(reward) for _, reward, _ in kept],
                "step": [step for _, _, step in kept],
                **_correlation([words for words, _, _ in rows], [reward for _, reward, _ in rows]),
            }
        )
    return {"title": "Reward against length", "arms": found} if found else None


def _dots(run: Run) -> list[tuple[int, float, int]]:
    """Return words, reward and step of the logged rollouts that have a reward."""
    return [
        (len(row["completion"].split()), float(row["reward"]), row["step"])
        for row in run.rollouts
        if isinstance(row.get("reward"), int | float)
    ]


def _correlation(x: Sequence[float], y: Sequence[float]) -> dict[str, float | None]:
    if len(x) < 4 or len(set(x)) < 2 or len(set(y)) < 2:
        return {"correlation": None, "error": None}
    r = float(np.corrcoef(x, y)[0, 1])
    return {"correlation": round(r, 3), "error": round((1 - r * r) / (len(x) - 2) ** 0.5, 3)}
