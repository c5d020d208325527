"""A comparison on the terminal: for each metric that matters the arms with their difference to the baseline."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

SHOWN = ("prompt_level_strict_acc", "completion_tokens_w1", "expert_nll")
"""Metrics that every comparison shows, beside the one that chose and those of the user's own."""


def comparison_tables(result: Mapping[str, Any]) -> list[Table]:
    """Return a table per metric, every value with its 95 % interval, and one of what the arms cost."""
    return [*(_metric(result, name) for name in shown_metrics(result)), _cost(result)]


def shown_metrics(result: Mapping[str, Any]) -> list[str]:
    """Return the few metrics that matter, the one that chose first."""
    measured = next(iter(result["arms"].values()))["metrics"]
    ordered = dict.fromkeys((result["best_metric"], SHOWN[0], *result["own_metrics"], *SHOWN[1:]))
    return [name for name in ordered if name in measured]


def _metric(result: Mapping[str, Any], name: str) -> Table:
    baseline = result["baseline"]
    table = _table(f"\n{name}", "mean [95 % interval]", f"minus {baseline}, paired")
    for row in ("before", "expert"):
        if (value := result[row].get(name)) is not None:
            table.add_row(row, f"{value:.3f}{' ' * 16}", "")
    for arm, found in result["arms"].items():
        gap = result["differences"].get(arm, {"metrics": {}})["metrics"].get(name)
        table.add_row(arm, _interval(found["metrics"].get(name)), _interval(gap, sign="+"))
    return table


def _cost(result: Mapping[str, Any]) -> Table:
    table = _table("\nwhat it took, mean of seeds", "seeds", "trained tokens", "sampled", "seconds")
    for arm, found in result["arms"].items():
        numbers = (f"{found['cost'][name]:,.0f}" for name in found["cost"])
        table.add_row(" ".join([arm, *found["setting"]]), str(len(found["seeds"])), *numbers)
    table.caption = "* the interval of the difference excludes 0"
    table.caption_justify = "left"
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first)
    for title in others:
        table.add_column(title, justify="right")
    return table


def _interval(value: Mapping[str, float | None] | None, *, sign: str = "") -> str:
    """Return `mean [low, high]`, with a star where a difference is sure."""
    if value is None:
        return ""
    mean, low, high = value["mean"], value["low"], value["high"]
    assert mean is not None
    if low is None or high is None:
        return f"{mean:{sign}.3f}"
    star = ("*" if low > 0 or high < 0 else " ") if sign else ""
    return f"{mean:{sign}.3f}{star} \\[{low:{sign}.3f}, {high:{sign}.3f}]"
