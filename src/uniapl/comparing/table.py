"""A comparison on the terminal: for each metric that matters the arms with their difference to the baseline."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from uniapl.known_metrics import BETTER, FEWEST_SEEDS, KNOWN, direction_of, is_sure

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
    table = _table("", "seeds", "mean [95 % interval]", f"minus {baseline}, paired")
    table.title, table.title_justify, table.title_style = _title(result, name), "left", ""
    for row in ("before", "expert"):
        if (value := result[row].get(name)) is not None:
            table.add_row(row, "", f"{value:.3f}{' ' * 16}", "")
    for arm, found in result["arms"].items():
        compared = result["differences"].get(arm, {"metrics": {}, "seeds": []})
        gap, num_shared = compared["metrics"].get(name), len(compared["seeds"])
        seeds = str(len(found["seeds"]))
        table.add_row(arm, seeds, _interval(found["metrics"].get(name)), _gap(gap, num_shared))
    return table


def _title(result: Mapping[str, Any], name: str) -> str:
    """Return name, unit and direction of a metric, and over how many prompts it is."""
    known = KNOWN.get(name)
    means = [
        found["metrics"][name]["mean"]
        for found in result["arms"].values()
        if name in found["metrics"]
    ]
    is_fraction = all(0 <= value <= 1 for value in means)
    direction = direction_of(name, result["definitions"].get(name, ""), is_fraction=is_fraction)
    unit = known.unit if known and known.unit != "%" else ""
    said = (
        unit,
        "" if direction == "neither" else BETTER[direction],
        f"{result['num_prompts']} prompts",
    )
    return f"\n{name} ({', '.join(filter(None, said))})"


def _cost(result: Mapping[str, Any]) -> Table:
    table = _table("\nwhat it took, mean of seeds", "seeds", "trained tokens", "sampled", "seconds")
    for arm, found in result["arms"].items():
        numbers = (f"{found['cost'][name]:,.0f}" for name in found["cost"])
        table.add_row(" ".join([arm, *found["setting"]]), str(len(found["seeds"])), *numbers)
    table.caption = f"* {FEWEST_SEEDS} shared seeds or more, and the interval excludes 0"
    table.caption_justify = "left"
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first)
    for title in others:
        table.add_column(title, justify="right")
    return table


def _interval(value: Mapping[str, float | None] | None) -> str:
    """Return `mean [low, high]`."""
    if value is None:
        return ""
    mean, low, high = value["mean"], value["low"], value["high"]
    return f"{mean:.3f}" if low is None else f"{mean:.3f} \\[{low:.3f}, {high:.3f}]"


def _gap(value: Mapping[str, float | None] | None, num_seeds: int) -> str:
    """Return the difference with its interval, and a star where it is sure."""
    if value is None:
        return ""
    mean, low, high = value["mean"], value["low"], value["high"]
    star = "*" if is_sure(low, high, num_seeds) else " "
    return f"{mean:+.3f}{star} \\[{low:+.3f}, {high:+.3f}]"
