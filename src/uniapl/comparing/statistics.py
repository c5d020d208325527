"""From what each run did on each prompt to the numbers of a comparison: means, intervals, differences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from uniapl.comparing.outcomes import Columns, Measure, as_array, measures
from uniapl.errors import InputError
from uniapl.evaluation.bootstrap import Array, draw, interval, paired_difference


@dataclass(frozen=True, slots=True)
class Record:
    """One finished run of an arm, as small as intervals allow."""

    seed: int
    prompts: Sequence[Any]
    """The prompts' keys; `columns` are parallel to them."""
    columns: Columns
    own_metrics: Sequence[str]
    """Names of the metrics that are means of columns of their own."""
    metrics: Mapping[str, float | None]
    """As in `results.json`, metrics without columns included."""
    cost: Mapping[str, float]


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """Return `seeds`, `metrics` and `cost` of one arm.

    A metric that no columns give, such as a distance of distributions of tokens, has a mean over seeds
    and a null interval.
    """
    known = _measures(records)
    columns = _arrays(records)
    draws = draw(len(records), len(records[0].prompts))
    metrics: dict[str, Any] = {}
    for name in records[0].metrics:
        values = [r.metrics.get(name) for r in records]
        numbers = [v for v in values if v is not None]
        if len(numbers) < len(values):
            continue
        if measure := known.get(name):
            found = interval([columns[c] for c in measure.columns], measure.statistic, draws)
            metrics[name] = asdict(found)
        else:
            metrics[name] = {"mean": sum(numbers) / len(numbers), "low": None, "high": None}
        metrics[name]["by_seed"] = numbers
    cost = {name: sum(r.cost[name] for r in records) / len(records) for name in records[0].cost}
    return {"seeds": [r.seed for r in records], "metrics": metrics, "cost": cost}


def difference(records: Sequence[Record], baseline: Sequence[Record]) -> dict[str, Any]:
    """Return arm minus baseline over the seeds that both have.

    Raises:
        InputError: They share no seed, or did not answer the same prompts.
    """
    theirs = {r.seed: r for r in baseline}
    pairs = [(r, theirs[r.seed]) for r in records if r.seed in theirs]
    if not pairs:
        raise InputError("the arms share no seed: their differences would not be paired")
    ours, others = [a for a, _ in pairs], [b for _, b in pairs]
    if ours[0].prompts != others[0].prompts:
        raise InputError("the arms answered different prompts: start the comparison afresh")
    draws = draw(len(pairs), len(ours[0].prompts))
    known, columns, other_columns = _measures([*ours, *others]), _arrays(ours), _arrays(others)
    metrics = {
        name: asdict(
            paired_difference(
                [columns[c] for c in measure.columns],
                [other_columns[c] for c in measure.columns],
                measure.statistic,
                draws,
            )
        )
        for name, measure in known.items()
    }
    return {"seeds": [r.seed for r in ours], "metrics": metrics}


def _measures(records: Sequence[Record]) -> dict[str, Measure]:
    """Return the measures that all records have columns for."""
    shared = set.intersection(*(set(r.columns) for r in records))
    return measures(dict.fromkeys(shared), records[0].own_metrics)


def _arrays(records: Sequence[Record]) -> dict[str, Array]:
    """Return each shared column as [seeds, prompts].

    Raises:
        InputError: The runs did not answer the same prompts.
    """
    if any(r.prompts != records[0].prompts for r in records):
        raise InputError("runs of one arm answered different prompts: start the comparison afresh")
    shared = set.intersection(*(set(r.columns) for r in records))
    return {name: as_array([r.columns[name] for r in records]) for name in shared}
