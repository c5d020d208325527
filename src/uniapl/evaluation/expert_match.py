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
from scipy.stats import wasserstein_distance

from uniapl.evaluation.bootstrap import kolmogorov_smirnov
from uniapl.experts import ngrams, repetition_fraction, words
from uniapl.thoughts import CLOSING, without_thoughts
from uniapl.types import Demonstration, Rollout

MeanLogprobs = Callable[[Sequence[Demonstration | Rollout]], list[float]]
"""Mean log-prob per token of each completion under some model, nats."""

Row = dict[str, Any]

DEFINITIONS = {
    "completion_tokens_mean": "Mean length of the policy's completions, tokens with the end of turn.",
    "expert_completion_tokens_mean": "Mean length of the expert's completions, tokens.",
    "completion_tokens_w1": "Wasserstein-1 distance of the two length distributions, tokens; 0 = the same.",
    "completion_tokens_ks": "Kolmogorov-Smirnov distance of the two length distributions: 0 = the same, "
    "1 = no overlap.",
    "expert_nll": "Negative log-likelihood of the expert's completions under the policy, nats per token.",
    "truncated_fraction": "Share of completions cut off by the token limit.",
    "logprob_mean": "Log-prob per token that the policy gives its own completions, mean over completions, nats.",
    "expert_logprob_mean": "Log-prob per token that the policy gives the expert's completions, mean over "
    "completions, nats.",
    "logprob_w1": "Wasserstein-1 distance of those two distributions over completions, nats.",
    "logprob_ks": "Kolmogorov-Smirnov distance of those two distributions.",
    "base_logprob_mean": "As logprob_mean, but under the model before training: how far the policy has moved.",
    "expert_base_logprob_mean": "As expert_logprob_mean, but under the model before training.",
    "base_logprob_w1": "As logprob_w1, but under the model before training: do both surprise it alike?",
    "base_logprob_ks": "As logprob_ks, but under the model before training.",
    "entropy": "Mean -log π of the policy's own tokens, nats per token: an estimate of its entropy if "
    "evaluation.temperature is 1.",
    "repetition_fraction": "Share of a completion's word 3-grams that it had before, mean over completions.",
    "distinct_1": "Different words over all words of all completions; depends on how much text there is.",
    "distinct_2": "Different word pairs over all word pairs of all completions.",
    "expert_bigram_f1": "Overlap of a completion's word pairs with those of the expert's completion of the "
    "same prompt (ROUGE-2 F1), mean over prompts.",
}
"""One line per metric, as the report prints it."""


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
    """Return the metrics of `DEFINITIONS` that the rows allow, all but `truncated_fraction`.

    Distances compare samples of two distributions, not pairs: over the prompts that have an expert.
    """
    results: dict[str, float] = dict(diversity(completions))
    for name in ("completion_tokens", "repetition_fraction", "expert_bigram_f1"):
        values = [row[name] for row in rows if row[name] is not None]
        if values:
            is_length = name == "completion_tokens"
            results[f"{name}_mean" if is_length else name] = float(np.mean(values))
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
            results[own_name] = float(np.mean([value for value, _ in pairs]))
        if own:
            results[mean_name] = float(np.mean(expert))
            results |= distances(name, own, expert)
    results |= _per_token("entropy", rows, "logprob_mean", "completion_tokens")
    results |= _per_token("expert_nll", rows, "expert_logprob_mean", "expert_completion_tokens")
    return results


def distances(name: str, own: Sequence[float], expert: Sequence[float]) -> dict[str, float]:
    """Return Wasserstein-1 and Kolmogorov-Smirnov distance of two samples of one size."""
    if not all(map(math.isfinite, (*own, *expert))):  # the policy's weights have diverged
        return {f"{name}_w1": math.nan, f"{name}_ks": math.nan}
    return {
        f"{name}_w1": float(wasserstein_distance(own, expert)),
        f"{name}_ks": float(kolmogorov_smirnov(np.asarray(own), np.asarray(expert))),
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
    return {name: -sum(total for total, _ in known) / sum(count for _, count in known)}
