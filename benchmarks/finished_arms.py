"""What a comparison has finished so far: `python -m benchmarks.finished_arms COMPARISON`.

`uniapl compare` prints its tables when every run is done. This prints one line per finished run, and those tables with
their intervals as soon as there are any.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.measuring import print_table
from uniapl.comparing.table import comparison_tables

METRICS = {
    "prompt_level_strict_acc": "strict",
    "hack_fraction": "hacks",
    "prompt_level_loose_acc": "loose",
    "inst_level_strict_acc": "instruction strict",
    "inst_level_loose_acc": "instruction loose",
    "held_out_types_acc": "held-out types",
    "completion_tokens_mean": "tokens",
    "completion_tokens_w1": "W1 of tokens",
    "logprob_w1": "W1 of log-probs",
    "expert_nll": "NLL of the expert",
    "base_logprob_mean": "log-prob under the base",
    "repetition_fraction": "repetition",
    "few_words_fraction": "few words",
    "truncated_fraction": "cut off",
}
"""Columns of the table, of those that the runs have."""


def main(arguments: list[str] | None = None) -> None:
    """Print the runs of a comparison, and its tables if it has any yet."""
    words = sys.argv[1:] if arguments is None else arguments
    if len(words) != 1:
        sys.exit("usage: python -m benchmarks.finished_arms COMPARISON")
    folder = Path(words[0])
    files = sorted((folder / "arms").glob("*.json"))
    runs = {f.stem: json.loads(f.read_text(encoding="utf-8")) for f in files}
    tuning = {name: run for name, run in runs.items() if name.endswith("-tuning")}
    if not runs:
        print("no run has finished yet")
    _show("runs that chose a setting, on the validation prompts", tuning)
    _show("finished runs", {name: run for name, run in runs.items() if name not in tuning})
    result = folder / "comparison.json"
    if result.exists():
        for table in comparison_tables(json.loads(result.read_text(encoding="utf-8"))):
            Console(width=120).print(table)


def _show(title: str, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a line per run, and what the first of them measured before training."""
    if not runs:
        return
    names = [name for name in METRICS if any(name in run["metrics"] for run in runs.values())]
    rows = [["before", *_values(next(iter(runs.values()))["before"], names), "", "", ""]]
    for name, run in runs.items():
        cost = run["cost"]
        counts = [cost["sampled_tokens"], cost["trained_tokens"], cost["seconds"] / 60]
        rows.append([name, *_values(run["metrics"], names), *counts])
    columns = [METRICS[name] for name in names]
    print_table(title, ["", *columns, "sampled", "trained", "minutes"], rows)


def _values(metrics: Mapping[str, float | None], names: list[str]) -> list[Any]:
    return ["" if (value := metrics.get(name)) is None else f"{value:.3f}" for name in names]


if __name__ == "__main__":
    main()
