"""What one run did on each prompt, kept small: the raw material of paired intervals.

Input: the rows of `samples.jsonl`; output: one list of numbers per column, parallel to the prompts,
from which `MEASURES` computes every metric of `results.json` that is one number per set of prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from uniapl.evaluation.bootstrap import (
    Array,
    Statistic,
    kolmogorov_smirnov,
    mean,
    ratio,
    wasserstein,
)

Columns = dict[str, list[float | None]]

OWN = "metrics."
"""Begins the columns of the user's own metrics, whose names are theirs to choose."""
LOGPROBS = (
    "logprob_mean",
    "expert_logprob_mean",
    "base_logprob_mean",
    "expert_base_logprob_mean",
)
DIGITS = 6
"""Significant digits that are kept."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How a metric follows from columns."""

    statistic: Statistic
    columns: tuple[str, ...]


MEASURES: dict[str, Measure] = {
    "prompt_level_strict_acc": Measure(mean, ("followed_all_strict",)),
    "inst_level_strict_acc": Measure(ratio, ("followed_strict", "instructions")),
    "prompt_level_loose_acc": Measure(mean, ("followed_all_loose",)),
    "inst_level_loose_acc": Measure(ratio, ("followed_loose", "instructions")),
    "completion_tokens_mean": Measure(mean, ("completion_tokens",)),
    "completion_tokens_w1": Measure(wasserstein, ("completion_tokens", "expert_completion_tokens")),
    "truncated_fraction": Measure(mean, ("is_truncated",)),
    "expert_nll": Measure(ratio, ("expert_nats", "expert_completion_tokens")),
    "entropy": Measure(ratio, ("nats", "completion_tokens")),
    "completion_tokens_ks": Measure(
        kolmogorov_smirnov, ("completion_tokens", "expert_completion_tokens")
    ),
    **{name: Measure(mean, (name,)) for name in LOGPROBS},
    "logprob_w1": Measure(wasserstein, LOGPROBS[:2]),
    "logprob_ks": Measure(kolmogorov_smirnov, LOGPROBS[:2]),
    "base_logprob_w1": Measure(wasserstein, LOGPROBS[2:]),
    "base_logprob_ks": Measure(kolmogorov_smirnov, LOGPROBS[2:]),
    "repetition_fraction": Measure(mean, ("repetition_fraction",)),
    "expert_bigram_f1": Measure(mean, ("expert_bigram_f1",)),
}
"""The metrics of every evaluation; one of the user's own is the mean of its column."""


def outcomes(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Return the columns of one evaluation; a value that a prompt lacks is None."""
    table = [_outcome(row) for row in rows]
    names = dict.fromkeys(name for row in table for name in row)
    columns: Columns = {name: [_rounded(row.get(name)) for row in table] for name in names}
    return {name: c for name, c in columns.items() if any(v is not None for v in c)}


def measures(columns: Mapping[str, Any], own_metrics: Sequence[str]) -> dict[str, Measure]:
    """Return the metrics that can be computed from the columns."""
    own = {name: Measure(mean, (OWN + name,)) for name in own_metrics}
    return {n: m for n, m in {**MEASURES, **own}.items() if all(c in columns for c in m.columns)}


def as_array(columns: Sequence[Sequence[float | None]]) -> Array:
    """Return one column of several runs as [seeds, prompts], None as NaN."""
    return np.array(columns, dtype=np.float64)


def _outcome(row: Mapping[str, Any]) -> dict[str, float | None]:
    found: dict[str, float | None] = {
        "completion_tokens": row["completion_tokens"],
        "expert_completion_tokens": row["expert_completion_tokens"],
        "is_truncated": row["finish_reason"] == "length",
        **{name: row[name] for name in (*LOGPROBS, "repetition_fraction", "expert_bigram_f1")},
        **{OWN + name: value for name, value in row["metrics"].items()},
    }
    for kind in ("", "expert_"):
        if (logprob := row[f"{kind}logprob_mean"]) is not None:
            found[f"{kind}nats"] = -logprob * row[f"{kind}completion_tokens"]
    if "follow_all_strict" in row:
        found["instructions"] = len(row["instruction_id_list"])
        for reading in ("strict", "loose"):
            found[f"followed_all_{reading}"] = row[f"follow_all_{reading}"]
            found[f"followed_{reading}"] = sum(row[f"follow_instruction_list_{reading}"])
    return found


def _rounded(value: float | None) -> float | None:
    """Return the value in the fewest characters: most are whole numbers."""
    if value is None:
        return None
    rounded = float(f"{float(value):.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded
