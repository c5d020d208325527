"""Strips: rows of a label, a track with marks and intervals, and the numbers in words.

They are HTML and CSS alone, so they print, fit a phone and need no script. Positions are percent of the track.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from uniapl.known_metrics import FEWEST_SEEDS
from uniapl.report.arms import Arm
from uniapl.report.results import (
    EvaluationMetric,
    Measured,
    arm_value,
    expert_value,
    number_text,
)

MAX_TICKS = 5
MAX_ROWS = 16
"""Rows that stand open; of more arms the best come first and the rest is folded."""

Strip = dict[str, Any]


class Track:
    """Places values of one metric on a track that holds them all."""

    def __init__(
        self, values: Sequence[float | None], low: float | None = None, high: float | None = None
    ):
        """Span the values that are known, or the ends where they are given."""
        known = [value for value in values if value is not None]
        least, most = min(known, default=0.0), max(known, default=1.0)
        pad = (most - least or abs(most) or 1.0) * 0.06
        self.low = least - pad if low is None else low
        self.high = most + pad if high is None else high

    def place(self, value: float) -> float:
        """Return a value's place, percent of the width, never outside."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    def bar(self, low: float | None, high: float | None) -> dict[str, float] | None:
        """Return left end and width of an interval; None where it is unknown."""
        if low is None or high is None:
            return None
        left = self.place(low)
        return {"left": left, "width": round(self.place(high) - left, 2)}

    def ticks(self, metric: EvaluationMetric) -> list[dict[str, Any]]:
        """Return a few round values with their places."""
        scale = 100 if metric.is_fraction else 1
        low, high = self.low * scale, self.high * scale
        step = _round_step((high - low) / MAX_TICKS)
        first = math.ceil(low / step - 1e-9)
        count = math.floor(high / step + 1e-9) - first + 1
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [
            {
                "x": self.place((first + k) * step / scale),
                "text": number_text((first + k) * step, digits),
            }
            for k in range(count)
        ]


def _round_step(least: float) -> float:
    """Return the least of 1, 2, 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def value_strip(arms: Sequence[Arm], metric: EvaluationMetric, base: Measured | None) -> Strip:
    """Return the last value of each arm with its 95 % interval, beside before training and the expert."""
    rows: list[dict[str, Any]] = [
        {
            "label": arm.name,
            "note": _seeds(len(arm.runs)) if len(arm.runs) > 1 else "",
            "arm": index,
            "value": value.value,
            "low": value.low,
            "high": value.high,
        }
        for index, arm in enumerate(arms)
        if (value := arm_value(arm, metric.name, -1)) is not None
    ]
    if len(rows) > MAX_ROWS:
        rows.sort(key=lambda row: row["value"], reverse=metric.direction != "lower")
    expert = expert_value(arms, metric.name)
    return _strip(metric, rows, base.value if base else None, expert.value if expert else None)


def comparison_strip(
    comparison: Mapping[str, Any], metric: EvaluationMetric, arm_of: Mapping[str, int]
) -> Strip:
    """Return the means of a comparison with their 95 % intervals."""
    rows = [
        {
            "label": name,
            "note": _seeds(len(arm["seeds"])),
            "arm": arm_of.get(name),
            "value": found["mean"],
            "low": found["low"],
            "high": found["high"],
        }
        for name, arm in comparison["arms"].items()
        if (found := arm["metrics"].get(metric.name)) is not None
    ]
    before, expert = comparison.get("before") or {}, comparison.get("expert") or {}
    return _strip(metric, rows, before.get(metric.name), expert.get(metric.name))


def _strip(
    metric: EvaluationMetric,
    rows: Sequence[Mapping[str, Any]],
    base: float | None,
    expert: float | None,
) -> Strip:
    ends = [row[name] for row in rows for name in ("value", "low", "high")]
    track = Track([base, expert, *ends])
    if metric.is_fraction:
        track.low, track.high = max(0.0, track.low), min(1.0, track.high)
    return {
        "metric": metric,
        "ticks": track.ticks(metric),
        "references": [
            {"kind": kind, "x": track.place(value), "text": metric.with_unit(value)}
            for kind, value in (("before", base), ("expert", expert))
            if value is not None
        ],
        "rows": [
            {
                "label": row["label"],
                "note": row["note"],
                "arm": row["arm"],
                "marks": [{"kind": "after", "arm": row["arm"], "x": track.place(row["value"])}],
                "bar": track.bar(row["low"], row["high"]),
                "text": metric.with_unit(row["value"]),
                "interval": "" if row["low"] is None else metric.interval(row["low"], row["high"]),
                "verdict": "",
            }
            for row in rows
        ],
    }


def difference_strip(
    comparison: Mapping[str, Any], metric: EvaluationMetric, arm_of: Mapping[str, int]
) -> Strip | None:
    """Return the forest plot of a metric: paired differences to the baseline with their 95 % intervals.

    A row is called better or worse only where the interval excludes 0 and at least three seeds carry it.
    """
    found = [
        (name, difference, gap)
        for name, difference in comparison["differences"].items()
        if (gap := difference["metrics"].get(metric.name)) is not None
    ]
    if not found:
        return None
    ends = [value for _, _, gap in found for value in (gap["mean"], gap["low"], gap["high"])]
    track = Track([0.0, *ends])
    unit = "points" if metric.is_fraction else metric.unit
    rows: list[dict[str, Any]] = []
    for name, difference, gap in found:
        seeds = len(difference["seeds"])
        verdict = metric.verdict(gap["low"], gap["high"], seeds)
        if verdict == "cannot tell" and seeds < FEWEST_SEEDS:
            verdict = f"cannot tell from {_seeds(seeds)}"
        rows.append(
            {
                "label": name,
                "note": _seeds(seeds),
                "arm": arm_of.get(name),
                "marks": [
                    {"kind": "after", "arm": arm_of.get(name), "x": track.place(gap["mean"])}
                ],
                "bar": track.bar(gap["low"], gap["high"]),
                "text": f"{metric.signed(gap['mean'])} {unit}".rstrip(),
                "interval": metric.interval(gap["low"], gap["high"], is_difference=True),
                "verdict": verdict,
            }
        )
    return {
        "metric": metric,
        "ticks": track.ticks(metric),
        "references": [{"kind": "zero", "x": track.place(0.0), "text": ""}],
        "rows": rows,
    }


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def instruction_strip(found: Mapping[str, Any] | None) -> Strip | None:
    """Return strict accuracy by type of instruction: before training, each arm after, the expert.

    Args:
        found: What `distributions.accuracy_by_instruction` returns.
    """
    if found is None:
        return None
    metric = EvaluationMetric("", "Followed, strict", "", "%", "higher")
    track = Track([], 0.0, 1.0)
    rows: list[dict[str, Any]] = []
    for index, name in enumerate(found["ids"]):
        marks = [
            {"kind": kind, "arm": None, "x": track.place(value)}
            for kind, value in (
                ("before", found["base"][index]),
                ("expert", found["expert"][index]),
            )
            if value is not None
        ]
        after = [(one["arm"], one["strict"][index]) for one in found["arms"]]
        known = [(arm, value) for arm, value in after if value is not None]
        marks += [{"kind": "after", "arm": arm, "x": track.place(value)} for arm, value in known]
        base = found["base"][index]
        before = "" if base is None else f"{metric.written(base)} → "
        rows.append(
            {
                "label": name,
                "note": f"{found['n'][index]} times",
                "arm": None,
                "marks": marks,
                "bar": None,
                "text": f"{before}{metric.with_unit(known[0][1])}" if len(known) == 1 else "",
                "interval": "",
                "verdict": "",
            }
        )
    return {"metric": metric, "ticks": track.ticks(metric), "references": [], "rows": rows}
