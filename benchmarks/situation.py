"""A situation of `where_it_pays.sh` for the docs: its tables as Markdown, its curves and its pictures.

    python -m benchmarks.situation COMPARISON DOCS

Reads the comparison's result and the evaluations of its runs; writes `comparison.json`, `arms/`, `curves.json` and the
pictures into DOCS, and prints the tables. Curves of runs whose folders are gone are taken from what is in DOCS.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.curves import Curves, curves_of, over_steps
from benchmarks.drawing import Panel, Point, Series, coloured, picture, ticks
from uniapl.known_metrics import is_sure

COLUMNS = {
    "hack_fraction": "uses the hole",
    "prompt_level_strict_acc": "strict",
    "fluency": "fluency",
    "joint": "joint",
    "completion_tokens_w1": "W1",
    "distinct_2": "distinct-2",
    "expert_nll": "NLL",
}
"""Metrics of the tables, of those that the arms have, and their short names."""
PANELS = {
    "hack_fraction": "answers that use the hole in the reward",
    "prompt_level_strict_acc": "answers that follow everything",
    "fluency": "fluent sentences",
    "joint": "answers that follow everything, fluently",
    "completion_tokens_w1": "distance of lengths to the expert's (W1), tokens",
}
_SHARES = set(PANELS) - {"completion_tokens_w1"}

Result = Mapping[str, Any]
"""Of a comparison: `comparison.json`."""


def tables(result: Result) -> str:
    """Return the arms and their differences to the baseline, as Markdown."""
    names = [name for name in COLUMNS if name in next(iter(result["arms"].values()))["metrics"]]
    head = [COLUMNS[name] for name in names]
    lines = [_row(["arm", "seeds", *head]), _row(["---"] * (len(head) + 2))]
    lines.append(_row(["before training", "", *(_mean(result["before"], n) for n in names)]))
    for arm, found in result["arms"].items():
        cells = [_interval(found["metrics"][name], 0, signed=False) for name in names]
        lines.append(_row([f"`{arm}`", str(len(found["seeds"])), *cells]))
    baseline = result["baseline"]
    lines += ["", f"Minus `{baseline}`, paired by prompt and seed:", ""]
    lines += [_row(["", "seeds", *head]), _row(["---"] * (len(head) + 2))]
    for arm, found in result["differences"].items():
        cells = [
            _interval(found["metrics"][name], len(found["seeds"]), signed=True)
            if name in found["metrics"]
            else ""
            for name in names
        ]
        lines.append(_row([f"`{arm}`", str(len(found["seeds"])), *cells]))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mean(metrics: Mapping[str, float], name: str) -> str:
    return _number(metrics[name]) if name in metrics else ""


def _interval(found: Mapping[str, float], num_seeds: int, *, signed: bool) -> str:
    """Return mean and interval; a difference that is a finding is bold."""
    mean, low, high = (found.get(name) for name in ("mean", "low", "high"))
    if mean is None:
        return ""
    middle = f"{'+' if signed and mean > 0 else ''}{_number(mean)}"
    if low is None or high is None:
        return middle
    middle = f"**{middle}**" if signed and is_sure(low, high, num_seeds) else middle
    return f"{middle} [{_number(low)}, {_number(high)}]"


def _number(value: float) -> str:
    words = f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"
    return words.replace("0.", ".", 1) if abs(value) < 1 else words


def plane(result: Result, x_name: str, y_name: str, colours: Mapping[str, str]) -> Panel:
    """Return a panel with a point and its intervals per arm.

    Args:
        result: Of the comparison.
        x_name: Metric along x.
        y_name: Metric along y.
        colours: Arm → colour.
    """
    series: list[Series] = []
    ends: list[tuple[Point, Point]] = []
    for arm, colour in colours.items():
        metrics = result["arms"][arm]["metrics"]
        x, y = metrics[x_name], metrics[y_name]
        ends.append((_ends(x), _ends(y)))
        series.append(Series(arm, colour, [(x["mean"], y["mean"])], cross=ends[-1]))
    return Panel(
        PANELS[y_name],
        series,
        ticks(value for (along_x, _) in ends for value in along_x),
        ticks(value for (_, along_y) in ends for value in along_y),
        is_x_share=True,
        x_title=PANELS[x_name],
    )


def _ends(found: Mapping[str, float]) -> Point:
    return found["low"], found["high"]


def pictures(result: Result, curves: Curves) -> dict[str, str]:
    """Return file name → SVG: curves over the steps, and the plane of arms."""
    colours = coloured(result["arms"])
    first = next(row for rows in curves.values() for row in rows)
    lines = [
        over_steps(curves, name, title, colours, is_share=name in _SHARES)
        for name, title in PANELS.items()
        if name in first
    ]
    arms = plane(result, "prompt_level_strict_acc", "fluency", colours)
    return {
        "curves.svg": picture(lines, "What every arm reaches over the steps of its run"),
        "plane.svg": picture([arms], "Arms by strict accuracy and fluency"),
    }


def _published(file: Path, folder: Path) -> str:
    """Return a result of a comparison's folder without the names of this machine's folders."""
    text = file.read_text(encoding="utf-8").replace(str(folder.resolve()), folder.name)
    result = json.loads(text)
    if command := result.get("environment", {}).get("command"):
        command[0] = Path(command[0]).name
    indent = 1 if file.name == "comparison.json" else None
    return json.dumps(result, ensure_ascii=False, indent=indent) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Write a situation's files and print its tables."""
    words = sys.argv[1:] if arguments is None else arguments
    if len(words) != 2:
        sys.exit("usage: python -m benchmarks.situation COMPARISON DOCS")
    folder, docs = map(Path, words)
    result = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    (docs / "arms").mkdir(parents=True, exist_ok=True)
    for file in [folder / "comparison.json", *(folder / "arms").glob("*.json")]:
        (docs / file.relative_to(folder)).write_text(_published(file, folder), encoding="utf-8")
    file = docs / "curves.json"
    old: Curves = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    curves: Curves = {}
    names = [name for name in PANELS if name in next(iter(result["arms"].values()))["metrics"]]
    runs = [(arm, folder / run) for arm, found in result["arms"].items() for run in found["runs"]]
    read = curves_of([(arm, run) for arm, run in runs if run.is_dir()], names)
    for arm, found in result["arms"].items():
        kept = {row["seed"]: row for row in [*old.get(arm, []), *read.get(arm, [])]}
        curves[arm] = [kept[seed] for seed in found["seeds"] if seed in kept]
    file.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
    for name, drawn in pictures(result, curves).items():
        (docs / name).write_text(drawn, encoding="utf-8")
    print(tables(result))


if __name__ == "__main__":
    main()
