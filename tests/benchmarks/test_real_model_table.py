"""What the table adds to a comparison, by hand-made outcomes."""

import pytest

from benchmarks.real_model_table import (
    ANSWERED,
    COMPARABLE,
    TEXT,
    on_common_text,
    with_more_columns,
)
from uniapl.comparing.outcomes import OWN, Columns
from uniapl.comparing.statistics import Record, difference, summarise

FOLLOWED: list[float | None] = [1, 1, 0, 1]
HACKS: list[float | None] = [0, 1, 0, 0]


def record(seed: int = 0, text: dict[str, float] | None = None) -> Record:
    columns: Columns = {"followed_all_strict": FOLLOWED, OWN + "hack_fraction": HACKS}
    metrics = {"prompt_level_strict_acc": 0.75, "hack_fraction": 0.25}
    plain = Record(seed, [1, 2, "c", 4], columns, ["hack_fraction"], metrics, {"seconds": 1.0})
    return with_more_columns(plain, text)


def test_a_hack_is_no_answer_and_answers_that_do_not_count_have_no_likelihood() -> None:
    found = summarise([record(text={"1": -2.0, "c": -4.0})])["metrics"]
    assert found[ANSWERED]["mean"] == pytest.approx(0.5)
    assert found[TEXT]["mean"] == pytest.approx(-3.0)
    assert found[COMPARABLE]["mean"] == pytest.approx(0.5)
    assert TEXT not in summarise([record()])["metrics"]
    none_counts = summarise([record(text={})])["metrics"]
    assert none_counts[COMPARABLE]["mean"] == 0
    assert TEXT not in none_counts


def test_likelihoods_differ_on_common_prompts_of_common_seeds() -> None:
    ours = [record(0, {"1": -2.0, "2": -1.0, "c": -9.0}), record(1, {"1": -3.0})]
    other = [record(0, {"1": -4.0, "2": -2.0, "4": -50.0}), record(2, {"1": -3.0})]
    gap = difference(*on_common_text(ours, other))
    assert gap["seeds"] == [0]
    assert gap["metrics"][TEXT]["mean"] == pytest.approx((2.0 + 1.0) / 2)
    assert gap["metrics"][ANSWERED]["mean"] == 0
    apart = difference(*on_common_text([record(0, {"1": -2.0})], [record(0, {"2": -2.0})]))
    assert TEXT not in apart["metrics"]
    assert COMPARABLE in apart["metrics"]
