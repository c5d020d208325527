"""How near the policy's completions are to the expert's: length, log-probability, wording.

`match_rows` says it of each prompt, `match_results` of all of them. Log-probs are means over the tokens
of a completion, nats, at temperature 1. The base is the model before training: what it finds likely shows
how far from home policy and expert are.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from uniapl.evaluation.bootstrap import kolmogorov_smirnov, standard_error, wasserstein
from uniapl.experts import ngrams, repetition_fraction, words
from uniapl.thoughts import CLOSING, without_thoughts
from uniapl.types import Demonstration, Rollout

MeanLogprobs = Callable[[Sequence[Demonstration | Rollout]], list[float]]
"""Mean log-prob per token of each completion under some model, nats."""

Row = dict[str, Any]


def match_rows(
    rollouts: Sequence[Rollout],
    experts: Sequence[Demonstration | None],
    policy: MeanLogprobs | None,
    base: MeanLogprobs | None,
) -> list[Row]:
    """Return what each prompt says about the match; None where its expert or a model is missing."""
    rows = [
        {
            "completion_tokens": len(r.token_ids),
            "expert_completion_tokens": len(e.token_ids) if e else None,
            "repetition_fraction": repetition_fraction(words(r.answer)),
            "expert_bigram_f1": bigram_f1(words(r.answer), words(answer_of(e, r))) if e else None,
        }
        for r, e in zip(rollouts, experts, strict=True)
    ]
    known = [e for e in experts if e is not None]
    computed = {model: model([*known, *rollouts]) for model in (policy, base) if model}
    for name, model in (("logprob_mean", policy), ("base_logprob_mean", base)):
        values = computed[model] if model else [None] * (len(known) + len(rollouts))
        of_experts = iter(values[: len(known)])
        for row, own, expert in zip(rows, values[len(known) :], experts, strict=True):
            row[name] = own
            row[f"expert_{name}"] = None if expert is None else next(of_experts)
    return rows


def answer_of(expert: Demonstration, rollout: Rollout) -> str:
    """Return an expert's completion without its thoughts, which begin as those of the prompt's rollout do."""
    begins_thinking = rollout.begins_thinking and CLOSING in expert.completion
    return without_thoughts(expert.completion, begins_thinking=begins_thinking)


def match_results(rows: Sequence[Row], completions: Sequence[str]) -> dict[str, float]:
    """Return the metrics of `known_metrics.COMPLETION_METRICS` that the rows allow, all but `truncated_fraction`.

    Means have a `_stderr` over prompts. Distances compare samples of two distributions, not pairs: over the prompts
    that have an expert.
    """
    results: dict[str, float] = dict(diversity(completions))
    for name in ("completion_tokens", "repetition_fraction", "expert_bigram_f1"):
        values = [row[name] for row in rows if row[name] is not None]
        if values:
            is_length = name == "completion_tokens"
            results |= mean_and_error(f"{name}_mean" if is_length else name, values)
    for name, mean_name in (
        ("completion_tokens", "expert_completion_tokens_mean"),
        ("logprob", "expert_logprob_mean"),
        ("base_logprob", "expert_base_logprob_mean"),
    ):
        own_name = name if name == "completion_tokens" else f"{name}_mean"
        pairs = [(r[own_name], r[f"expert_{own_name}"]) for r in rows]
        own = [value for value, expert in pairs if None not in (value, expert)]
        expert = [expert for value, expert in pairs if None not in (value, expert)]
        if name != "completion_tokens" and pairs[0][0] is not None:
            results |= mean_and_error(own_name, [value for value, _ in pairs])
        if own:
            results |= mean_and_error(mean_name, expert)
            results |= distances(name, own, expert)
    results |= _per_token("entropy", rows, "logprob_mean", "completion_tokens")
    results |= _per_token("expert_nll", rows, "expert_logprob_mean", "expert_completion_tokens")
    return results


def distances(name: str, own: Sequence[float], expert: Sequence[float]) -> dict[str, float]:
    """Return Wasserstein-1 and Kolmogorov-Smirnov distance of two samples of one size."""
    if not all(map(math.isfinite, (*own, *expert))):  # the policy's weights have diverged
        return {f"{name}_w1": math.nan, f"{name}_ks": math.nan}
    samples = np.asarray(own, np.float64), np.asarray(expert, np.float64)
    return {
        f"{name}_w1": float(wasserstein(*samples)),
        f"{name}_ks": float(kolmogorov_smirnov(*samples)),
    }


def diversity(completions: Sequence[str]) -> dict[str, float]:
    """Return distinct-1 and distinct-2 of a set of completions; absent where there is no n-gram."""
    texts = [words(c) for c in completions]
    found = {n: [gram for text in texts for gram in ngrams(text, n)] for n in (1, 2)}
    return {f"distinct_{n}": len(set(grams)) / len(grams) for n, grams in found.items() if grams}


def bigram_f1(text: Sequence[str], expert: Sequence[str]) -> float:
    """Return ROUGE-2's F1: shared word pairs, each counted as often as both have it."""
    own, theirs = Counter(ngrams(text, 2)), Counter(ngrams(expert, 2))
    total = own.total() + theirs.total()
    return 2 * (own & theirs).total() / total if total else 0.0


def _per_token(name: str, rows: Sequence[Row], logprob: str, tokens: str) -> dict[str, float]:
    """Return minus the mean over tokens instead of completions."""
    known = [(row[logprob] * row[tokens], row[tokens]) for row in rows if row[logprob] is not None]
    if not known:
        return {}
    totals, counts = zip(*known, strict=True)
    error = standard_error(totals, counts)
    return {
        name: -sum(totals) / sum(counts),
        **({} if error is None else {f"{name}_stderr": error}),
    }


def mean_and_error(name: str, values: Sequence[float]) -> dict[str, float]:
    """Return the mean over prompts and, of two or more, its standard error as `NAME_stderr`."""
    error = standard_error(values)
    return {name: float(np.mean(values)), **({} if error is None else {f"{name}_stderr": error})}
