"""One table of a real model's arms, checkers and others: `python -m benchmarks.real_model_table FOLDER`.

FOLDER is the output of `benchmarks/real_model.sh`. To what `uniapl compare` measured it adds columns of outcomes per
prompt, and leaves means, intervals and paired differences over seeds and prompts to compare's own statistics: strict
accuracy without hacks, and how likely an answer is as text (`benchmarks.fluency`). The text's difference of two arms is
taken on the prompts where both have an answer that counts.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measuring import print_table
from uniapl.comparing.outcomes import OWN
from uniapl.comparing.statistics import Record, difference, summarise
from uniapl.files import write_text
from uniapl.known_metrics import is_sure

BEFORE, AFTER = "before", "after"
"""How the arms of a run's text are named."""
TABLE = "table.json"
ANSWERED, TEXT, COMPARABLE = "answered_strict_acc", "text_logprob", "text_fraction"
ROWS = {
    "prompt_level_strict_acc": "prompt strict",
    "hack_fraction": "hacks",
    ANSWERED: "strict without hacks",
    "prompt_level_loose_acc": "prompt loose",
    "inst_level_strict_acc": "instruction strict",
    "trained_types_acc": "types in training",
    "held_out_types_acc": "types held out",
    "few_words_fraction": "fewer than 5 words",
    "repetition_fraction": "repetition",
    "truncated_fraction": "cut off",
    TEXT: "log-prob as text",
    COMPARABLE: "comparable text",
    "completion_tokens_mean": "tokens",
    "completion_tokens_w1": "W1 of tokens",
    "logprob_w1": "W1 of log-probs",
    "expert_nll": "NLL of the expert",
}
"""Metric → how the table calls it."""

Values = Mapping[str, float]


def reported_runs(comparison: Path) -> list[str]:
    """Return the names of the runs that a comparison reports; none before it has a result."""
    file = comparison / "comparison.json"
    if not file.exists():
        return []
    arms = json.loads(file.read_text(encoding="utf-8"))["arms"]
    return [Path(run).name for arm in arms.values() for run in arm["runs"]]


def text_file(folder: Path, run: str) -> Path:
    """Return where the log-probs of a run's answers as text are kept."""
    return folder / "text" / f"{run}.json"


def with_more_columns(record: Record, text: Values | None) -> Record:
    """Return a run's outcomes with those that the table adds.

    Args:
        record: With the column of `hack_fraction`, if strict accuracy without hacks is to be added.
        text: Log-prob per token of the answers that count as text, by the prompt's key; None: not measured.
    """
    added: dict[str, list[float | None]] = {}
    followed = record.columns.get("followed_all_strict")
    hacks = record.columns.get(OWN + "hack_fraction")
    if followed and hacks:
        pairs = zip(followed, hacks, strict=True)
        # a hack follows everything
        added[ANSWERED] = [None if f is None else f - (h or 0.0) for f, h in pairs]
    if text is not None:
        if text:
            added[TEXT] = [text.get(str(key)) for key in record.prompts]
        added[COMPARABLE] = [float(str(key) in text) for key in record.prompts]
    return replace(
        record,
        columns=record.columns | {OWN + name: column for name, column in added.items()},
        own_metrics=[*record.own_metrics, *added],
        metrics={**record.metrics, **{name: _mean(column) for name, column in added.items()}},
    )


def table(folder: Path) -> dict[str, Any]:
    """Return values of every arm, and differences of the last arm to each other one, with their intervals.

    Args:
        folder: With `comparison/comparison.json`, and `text/` for what has been measured of it.
    """
    result = json.loads((folder / "comparison" / "comparison.json").read_text(encoding="utf-8"))
    texts = {run: _text_of(folder, run) for run in reported_runs(folder / "comparison")}
    has_text = all(text is not None for text in texts.values())
    records = {
        name: [
            with_more_columns(
                _record(folder, Path(run).name), texts[Path(run).name] if has_text else None
            )
            for run in arm["runs"]
        ]
        for name, arm in result["arms"].items()
    }
    last = list(records)[-1]
    first = next(iter(texts))
    return {
        "before": {**_with_answered(result["before"]), **_text_before(folder, first)},
        "expert": _with_answered(result["expert"]),
        "arms": {
            name: {"setting": result["arms"][name]["setting"], **summarise(several)}
            for name, several in records.items()
        },
        "last": last,
        "differences": {
            name: difference(*on_common_text(records[last], several))
            for name, several in records.items()
            if name != last
        },
    }


def main(arguments: list[str] | None = None) -> int:
    """Write and print the table, if there is a comparison to print."""
    words = sys.argv[1:] if arguments is None else arguments
    if len(words) != 1:
        sys.exit("usage: python -m benchmarks.real_model_table FOLDER")
    folder = Path(words[0])
    if not reported_runs(folder / "comparison"):
        return 0
    found = table(folder)
    write_text(folder / TABLE, json.dumps(found, indent=1) + "\n")
    arms, last = found["arms"], found["last"]
    names = [n for n in ROWS if any(n in arm["metrics"] for arm in arms.values())]
    rows = [
        [
            ROWS[name],
            _number(found["before"].get(name)),
            *(_interval(arm["metrics"].get(name)) for arm in arms.values()),
            _number(found["expert"].get(name)),
        ]
        for name in names
    ]
    seeds = {name: len(arm["seeds"]) for name, arm in arms.items()}
    heads = [f"{name}, {count} seed{'s' * (count > 1)}" for name, count in seeds.items()]
    print_table("arms, mean [95 % over seeds and prompts]", ["", "before", *heads, "expert"], rows)
    gaps = found["differences"]
    rows = [
        [ROWS[name], *(_gap(gap["metrics"].get(name), len(gap["seeds"])) for gap in gaps.values())]
        for name in names
    ]
    if gaps:
        title = f"{last} minus each other arm, paired; *: sure over three seeds or more"
        print_table(title, ["", *gaps], rows)
    return 0


def _record(folder: Path, run: str) -> Record:
    stored = json.loads((folder / "comparison" / "arms" / f"{run}.json").read_text("utf-8"))
    return Record(**{name: stored[name] for name in Record.__slots__})


def _text_of(folder: Path, run: str) -> Values | None:
    file = text_file(folder, run)
    return json.loads(file.read_text(encoding="utf-8"))[AFTER] if file.exists() else None


def _text_before(folder: Path, run: str) -> dict[str, float | None]:
    """Return how likely the answers before training are as text, which all runs share."""
    file = text_file(folder, run)
    if not file.exists():
        return {}
    text = json.loads(file.read_text(encoding="utf-8"))
    num_prompts = len(_record(folder, run).prompts)
    before = text.get(BEFORE, {})  # measured with another run, if the arms were ordered anew
    return {TEXT: _mean(list(before.values())), COMPARABLE: len(before) / num_prompts}


def on_common_text(
    records: Sequence[Record], others: Sequence[Record]
) -> tuple[list[Record], list[Record]]:
    """Return the runs with a seed in both arms, their log-probs as text on the prompts where both have one."""
    column = OWN + TEXT
    theirs = {record.seed: record for record in others}
    pairs = [(ours, theirs[ours.seed]) for ours in records if ours.seed in theirs]
    masked: list[tuple[Record, Record]] = []
    for ours, other in pairs:
        nothing = [None] * len(ours.prompts)
        sides = [one.columns.get(column, nothing) for one in (ours, other)]
        common = [None not in values for values in zip(*sides, strict=True)]
        kept = [[v if both else None for v, both in zip(s, common, strict=True)] for s in sides]
        masked.append((_with_text(ours, kept[0]), _with_text(other, kept[1])))
    return [a for a, _ in masked], [b for _, b in masked]


def _with_text(record: Record, values: list[float | None]) -> Record:
    """Return a run with these log-probs as text; without any where no answer counts."""
    columns = {name: c for name, c in record.columns.items() if name != OWN + TEXT}
    has_values = any(value is not None for value in values)
    return replace(record, columns=columns | ({OWN + TEXT: values} if has_values else {}))


def _with_answered(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return metrics with strict accuracy without hacks, where there are both."""
    strict, hacks = metrics.get("prompt_level_strict_acc"), metrics.get("hack_fraction")
    if strict is None or hacks is None:
        return dict(metrics)
    return {**metrics, ANSWERED: strict - hacks}


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(value: Mapping[str, float | None] | None) -> str:
    if value is None:
        return ""
    if value["low"] is None or value["high"] is None:
        return _number(value["mean"])
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _gap(value: Mapping[str, float] | None, num_seeds: int) -> str:
    if value is None:
        return ""
    star = "*" if is_sure(value["low"], value["high"], num_seeds) else ""
    return f"{value['mean']:+.3f}{star} [{value['low']:+.3f}, {value['high']:+.3f}]"


if __name__ == "__main__":
    sys.exit(main())
