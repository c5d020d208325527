"""Distributions of completion lengths and log-probs beside the expert's, and accuracy by instruction.

Input: the samples of the first and last evaluation of each run. Output: plain lists for the charts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from uniapl.report.arms import Arm, evaluation_at, mean
from uniapl.report.reading import Evaluation, Row, Run

Values = npt.NDArray[np.float64]

MAX_BINS = 36


def wasserstein1(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the Wasserstein-1 distance of two samples, in their unit; None if one is empty."""
    if not len(first) or not len(second):
        return None
    a, b = np.sort(np.asarray(first, float)), np.sort(np.asarray(second, float))
    points = np.sort(np.concatenate([a, b]))
    share_a = np.searchsorted(a, points[:-1], side="right") / len(a)
    share_b = np.searchsorted(b, points[:-1], side="right") / len(b)
    return float(np.sum(np.abs(share_a - share_b) * np.diff(points)))


def length_distributions(arms: Sequence[Arm]) -> dict[str, Any] | None:
    """Return histograms of completion lengths before and after, and the expert's.

    In tokens where every sample knows its own and the expert's, else all of them in words.
    """
    unit = "tokens" if all(_has_tokens(row) for row in _all_samples(arms)) else "words"

    def lengths(row: Row) -> tuple[float | None, float | None]:
        expert = row.get("expert_completion")
        if unit == "tokens":
            return row["completion_tokens"], row.get("expert_completion_tokens")
        return len(row["response"].split()), len(expert.split()) if expert else None

    return _distributions(arms, lengths, unit)


def logprob_distributions(arms: Sequence[Arm], model: str = "") -> dict[str, Any] | None:
    """Return histograms of log-probs per token, of the answers and of the expert's completions.

    Only where samples carry them.

    Args:
        arms: The arms.
        model: Under which model: empty is the policy itself, `base_` the one before training.
    """

    def logprobs(row: Row) -> tuple[float | None, float | None]:
        return row.get(f"{model}logprob_mean"), row.get(f"expert_{model}logprob_mean")

    return _distributions(arms, logprobs, "nats per token")


def _distributions(arms: Sequence[Arm], columns: Any, unit: str) -> dict[str, Any] | None:
    """Return shared bin edges and a density per arm; None if the samples lack the columns.

    The expert's distribution is drawn once, from the last evaluation of the first arm that has it.
    """
    pairs: list[tuple[dict[str, list[float]], dict[str, list[float]]]] = []
    for arm in arms:
        before, after = _gathered(arm, 0, columns), _gathered(arm, -1, columns)
        if all(run.evaluations[0].step == run.evaluations[-1].step for run in _evaluated(arm)):
            before = {"policy": [], "expert": []}
        pairs.append((before, after))
    expert = next((after["expert"] for _, after in pairs if after["expert"]), [])
    everything = [value for pair in pairs for part in pair for value in part["policy"]] + expert
    if not expert or len(everything) == len(expert):
        return None
    edges = _edges(np.asarray(everything, float))
    return {
        "unit": unit,
        "edges": _rounded(edges),
        "expert": _density(expert, edges),
        "arms": [
            {
                "arm": index,
                "before": _density(before["policy"], edges),
                "after": _density(after["policy"], edges),
                "w1_before": wasserstein1(before["policy"], before["expert"]),
                "w1_after": wasserstein1(after["policy"], after["expert"]),
            }
            for index, (before, after) in enumerate(pairs)
            if after["policy"]
        ],
    }


def _gathered(arm: Arm, position: int, columns: Any) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"policy": [], "expert": []}
    for run in arm.runs:
        evaluation = evaluation_at(run, position)
        for row in evaluation.samples if evaluation else ():
            policy, expert = columns(row)
            if policy is not None:
                found["policy"].append(float(policy))
            if expert is not None:
                found["expert"].append(float(expert))
    return found


def _evaluated(arm: Arm) -> list[Run]:
    return [run for run in arm.runs if run.evaluations]


def _all_samples(arms: Sequence[Arm]) -> list[Row]:
    return [
        row
        for arm in arms
        for run in arm.runs
        for evaluation in run.evaluations
        for row in evaluation.samples
    ]


def _has_tokens(row: Row) -> bool:
    if row.get("completion_tokens") is None:
        return False
    return not row.get("expert_completion") or row.get("expert_completion_tokens") is not None


def _edges(values: Values) -> Values:
    """Return bin edges by Freedman-Diaconis; the first and last bin also hold what lies beyond."""
    low, q1, q3, high = np.percentile(values, [0.5, 25, 75, 99.5])
    if high <= low:
        return np.asarray([low - 0.5, low + 0.5])
    width = 2 * (q3 - q1) / len(values) ** (1 / 3)
    num_bins = MAX_BINS if width <= 0 else int(np.clip((high - low) / width, 8, MAX_BINS))
    if np.all(values == np.round(values)):
        width = max(1, round((high - low) / num_bins))
        return np.arange(low // 1 - 0.5, high + width + 0.5, width)
    return np.linspace(low, high, num_bins + 1)


def _density(values: Sequence[float], edges: Values) -> list[float]:
    """Return the share of the values in each bin; empty if there are none."""
    if not len(values):
        return []
    inside = np.clip(np.asarray(values, float), edges[0], np.nextafter(edges[-1], edges[0]))
    return _rounded(np.histogram(inside, edges)[0] / len(values))


def _rounded(values: Values) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def accuracy_by_instruction(arms: Sequence[Arm]) -> dict[str, Any] | None:
    """Return strict and loose accuracy of every instruction id, before and after, greatest gain first.

    None if no evaluation has `by_instruction`.
    """
    last = [_instruction_means(arm, -1) for arm in arms]
    ids = list(dict.fromkeys(name for found in last for name in found))
    if not ids:
        return None
    first = [_instruction_means(arm, 0, only_step=0) for arm in arms]
    base = {
        name: _mean_of([found[name] for found in first if name in found], "strict") for name in ids
    }
    expert = _expert_by_instruction(arms)

    def gain(name: str) -> float:
        after = _mean_of([found[name] for found in last if name in found], "strict") or 0.0
        return after - (base[name] or 0.0)

    ids.sort(key=lambda name: (-gain(name), name))
    return {
        "ids": ids,
        "n": [next(int(found[name]["n"]) for found in last if name in found) for name in ids],
        "base": [base[name] for name in ids],
        "expert": [expert.get(name) for name in ids],
        "arms": [
            {
                "arm": index,
                "strict": [found.get(name, {}).get("strict") for name in ids],
                "loose": [found.get(name, {}).get("loose") for name in ids],
            }
            for index, found in enumerate(last)
            if found
        ],
    }


def _instruction_means(
    arm: Arm, position: int, only_step: int | None = None
) -> dict[str, dict[str, float]]:
    """Return id → mean over the arm's runs of `strict`, `loose` and `n`."""
    gathered: dict[str, list[Mapping[str, Any]]] = {}
    for run in arm.runs:
        evaluation = evaluation_at(run, position)
        if evaluation is None or only_step not in (None, evaluation.step):
            continue
        for name, row in _by_instruction(evaluation.results).items():
            gathered.setdefault(name, []).append(row)
    return {
        name: {key: _mean_of(rows, key) or 0.0 for key in ("strict", "loose", "n")}
        for name, rows in gathered.items()
    }


def _expert_by_instruction(arms: Sequence[Arm]) -> dict[str, float]:
    evaluations: list[Evaluation] = [
        run.evaluations[-1] for arm in arms for run in arm.runs if run.evaluations
    ]
    for evaluation in evaluations:
        found = _by_instruction(evaluation.results.get("expert") or {})
        if found:
            return {name: row["strict"] for name, row in found.items() if "strict" in row}
    return {}


def _by_instruction(results: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    found = results.get("by_instruction")
    return found if isinstance(found, Mapping) else {}


def _mean_of(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return mean([float(row[key]) for row in rows if row.get(key) is not None])
