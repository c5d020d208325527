"""The match to the expert on completions made by hand."""

import math

import pytest
from scipy.stats import ks_2samp, wasserstein_distance

from uniapl.evaluation.expert_match import (
    bigram_f1,
    distances,
    diversity,
    match_results,
    match_rows,
)
from uniapl.experts import repetition_fraction, words
from uniapl.types import Demonstration, Prompt, Rollout

PROMPTS = [
    Prompt(str(i), ({"role": "user", "content": f"Write {i}"},), (1,), columns={}) for i in range(3)
]
ROLLOUTS = [
    Rollout(prompt, text, (5,) * length, (-0.5,) * length, "stop")
    for prompt, text, length in zip(
        PROMPTS, ("The sea is calm.", "a b a b a b", "short"), (6, 4, 2), strict=True
    )
]
EXPERTS = [
    Demonstration(PROMPTS[0], "the sea is blue.", (6,) * 5),
    None,
    Demonstration(PROMPTS[2], "quite long", (6,) * 3),
]


@pytest.mark.parametrize(
    ("own", "expert", "w1", "ks"),
    [
        ([3, 3], [3, 3], 0, 0),
        ([1, 3], [3, 1], 0, 0),  # distributions, not pairs
        ([2, 4], [5, 7], 3, 1),
        ([0, 0], [0, 10], 5, 0.5),
        ([1, 2, 3], [2, 2, 2], 2 / 3, 1 / 3),
    ],
)
def test_distances_by_hand(own: list[float], expert: list[float], w1: float, ks: float):
    found = distances("x", own, expert)
    assert found == {"x_w1": pytest.approx(w1), "x_ks": pytest.approx(ks)}
    assert found["x_w1"] == pytest.approx(wasserstein_distance(own, expert))
    assert found["x_ks"] == pytest.approx(ks_2samp(own, expert).statistic)


def test_words_are_lower_case_and_marks_count():
    assert words("The sea, it's CALM.\n\nOh!") == [
        *("the", "sea", ",", "it", "'", "s", "calm", ".", "oh", "!")
    ]


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("a b c d", 0.0),
        ("a b a b a b", 0.5),  # aba bab aba bab: two of four are new
        ("a a a a a", 2 / 3),  # three times the same
        ("a b", 0.0),
        ("", 0.0),
    ],
)
def test_repetition_by_hand(text: str, share: float):
    assert repetition_fraction(text.split()) == pytest.approx(share)


def test_distinct_counts_over_all_completions():
    # words: a b a b c: 3 of 5; pairs: ab | ab bc: 2 of 3
    assert diversity(["a b", "a b c"]) == {"distinct_1": 3 / 5, "distinct_2": 2 / 3}
    assert diversity(["a", ""]) == {"distinct_1": 1.0}
    assert diversity([""]) == {}


@pytest.mark.parametrize(
    ("text", "expert", "f1"),
    [
        ("a b c", "a b c", 1.0),
        ("a b c", "b c d", 0.5),  # ab bc against bc cd: 2·1 / (2 + 2)
        ("a b a b", "a b", 0.5),  # the pair ab is shared once: 2·1 / (3 + 1)
        ("a", "a", 0.0),  # no pair
    ],
)
def test_overlap_by_hand(text: str, expert: str, f1: float):
    assert bigram_f1(text.split(), expert.split()) == pytest.approx(f1)


def policy(samples: list) -> list[float]:
    """Experts first: -1, -2; then the policy's own: -0.1, -0.2, -0.4."""
    assert [s.prompt.id for s in samples] == ["0", "2", "0", "1", "2"]
    return [-1.0, -2.0, -0.1, -0.2, -0.4]


def base(samples: list) -> list[float]:
    return [value - 1 for value in policy(samples)]


def test_the_match_of_each_prompt():
    rows = match_rows(ROLLOUTS, EXPERTS, policy, base)
    assert rows[0] == {
        "completion_tokens": 6,
        "expert_completion_tokens": 5,
        "repetition_fraction": 0.0,
        "expert_bigram_f1": pytest.approx(2 * 2 / 8),  # "the sea" and "sea is" of 4 each
        "logprob_mean": -0.1,
        "expert_logprob_mean": -1.0,
        "base_logprob_mean": -1.1,
        "expert_base_logprob_mean": -2.0,
    }
    assert rows[1]["expert_logprob_mean"] is rows[1]["expert_bigram_f1"] is None
    assert rows[2]["expert_logprob_mean"] == -2.0
    assert rows[2]["logprob_mean"] == -0.4


def test_the_match_of_all_prompts():
    found = match_results(
        match_rows(ROLLOUTS, EXPERTS, policy, base), [r.completion for r in ROLLOUTS]
    )
    expected = {
        "completion_tokens_mean": 4,  # of all prompts; the rest only where an expert is known
        "expert_completion_tokens_mean": 4,
        "completion_tokens_w1": 1,  # 2, 6 against 3, 5
        "completion_tokens_ks": 0.5,
        "logprob_mean": -0.7 / 3,
        "expert_logprob_mean": -1.5,
        "logprob_w1": 1.25,  # -0.4, -0.1 against -2, -1: 1.6 and 0.9
        "logprob_ks": 1,
        "base_logprob_mean": -0.7 / 3 - 1,
        "expert_base_logprob_mean": -2.5,
        "base_logprob_w1": 1.25,
        "base_logprob_ks": 1,
        "entropy": (0.1 * 6 + 0.2 * 4 + 0.4 * 2) / 12,
        "expert_nll": (1 * 5 + 2 * 3) / 8,
        "repetition_fraction": 0.5 / 3,
        "expert_bigram_f1": 0.25,
        "distinct_1": 8 / 12,
        "distinct_2": 6 / 9,
        # over prompts: lengths 6, 4, 2 have a variance of 4, and so on
        "completion_tokens_mean_stderr": math.sqrt(4 / 3),
        "expert_completion_tokens_mean_stderr": 1,  # 5, 3
        "logprob_mean_stderr": math.sqrt(
            (0.7 / 3 - 0.1) ** 2 / 6 + (0.1 / 3) ** 2 / 6 + (0.5 / 3) ** 2 / 6
        ),
        "expert_logprob_mean_stderr": 0.5,
        "base_logprob_mean_stderr": math.sqrt(
            (0.7 / 3 - 0.1) ** 2 / 6 + (0.1 / 3) ** 2 / 6 + (0.5 / 3) ** 2 / 6
        ),
        "expert_base_logprob_mean_stderr": 0.5,
        # linearised: numerators .6 .8 .8 of 12 tokens at 2.2 / 12
        "entropy_stderr": math.sqrt(
            ((0.6 - 1.1) ** 2 + (0.8 - 8.8 / 12) ** 2 + (0.8 - 4.4 / 12) ** 2) * 3 / 2
        )
        / 12,
        "expert_nll_stderr": math.sqrt(2 * (6 - 11 / 8 * 3) ** 2 * 2) / 8,
        "repetition_fraction_stderr": 0.5 / 3,
        "expert_bigram_f1_stderr": 0.25,
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name


def test_without_models_or_experts_there_is_less():
    found = match_results(match_rows(ROLLOUTS, [None] * 3, None, None), ["a"])
    names = {"completion_tokens_mean", "repetition_fraction"}
    assert set(found) == {*names, *(f"{name}_stderr" for name in names), "distinct_1"}
    with_policy = match_results(
        match_rows(ROLLOUTS, [None] * 3, lambda s: [-1.0] * len(s), None), []
    )
    assert with_policy["logprob_mean"] == -1
    assert "logprob_w1" not in with_policy


def test_a_diverged_policy_has_no_distance():
    assert all(map(math.isnan, distances("x", [math.nan], [1.0]).values()))
