"""Intervals: hand-made values, simulated experiments whose truth is known, and what pairing gains."""

import numpy as np
import pytest
from scipy.stats import ks_2samp, wasserstein_distance

from uniapl.evaluation.bootstrap import (
    Array,
    draw,
    interval,
    kolmogorov_smirnov,
    mean,
    paired_difference,
    ratio,
    replicates,
    wasserstein,
)

NAN = np.nan


def array(*values: float) -> Array:
    return np.array(values)


def test_mean_leaves_out_prompts_without_a_value():
    assert mean(np.array([[1.0, NAN, 0.0, NAN], [1.0, 1.0, 1.0, 0.0]])).tolist() == [0.5, 0.75]
    assert np.isnan(mean(array(NAN, NAN)))


def test_ratio_is_a_mean_over_the_finer_unit():
    # 1 of 1 and 1 of 3 instructions: 2/4, not (1 + 1/3)/2
    assert ratio(array(1, 1, NAN), array(1, 3, NAN)) == 0.5


def test_distances_agree_with_scipy_and_leave_out_unknown_pairs():
    draws = np.random.default_rng(0)
    first, second = draws.integers(1, 20, (3, 50)) * 1.0, draws.integers(4, 30, (3, 50)) * 1.0
    first[:, 7] = NAN  # one side is missing: the prompt counts on neither
    known = np.arange(50) != 7
    for a, b, w1, ks in zip(
        first, second, wasserstein(first, second), kolmogorov_smirnov(first, second), strict=True
    ):
        assert w1 == pytest.approx(wasserstein_distance(a[known], b[known]))
        assert ks == pytest.approx(ks_2samp(a[known], b[known]).statistic)


def test_distances_by_hand():
    # sorted: 1 2 6 against 2 3 4: gaps 1, 1, 2
    assert wasserstein(array(6, 1, 2), array(2, 3, 4)) == pytest.approx(4 / 3)
    # at 2: 2 of 3 are at most 2 against 1 of 3; after 4: 2 of 3 against 3 of 3
    assert kolmogorov_smirnov(array(6, 1, 2), array(2, 3, 4)) == pytest.approx(1 / 3)
    assert kolmogorov_smirnov(array(1, 2), array(3, 4)) == 1
    assert np.isnan(kolmogorov_smirnov(array(NAN), array(1)))


def test_replicates_draw_seeds_and_the_same_prompts_for_all_of_them():
    values = np.array([[0.0, 1.0, 2.0, 3.0], [10.0, 11.0, 12.0, 13.0]])
    draws = draw(2, 4, 5)
    expected = [
        np.mean([values[s][p].mean() for s in seeds])
        for seeds, p in zip(draws.seeds, draws.prompts, strict=True)
    ]
    np.testing.assert_allclose(replicates([values], mean, draws), expected)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(0).random((3, 40))
    draws = draw(3, 40, 200)
    whole = replicates([values], mean, draws)
    monkeypatch.setattr("uniapl.evaluation.bootstrap.BLOCK_VALUES", 500)
    np.testing.assert_array_equal(replicates([values], mean, draws), whole)


def test_no_noise_no_width_and_the_same_numbers_every_time():
    constant = np.full((3, 20), 0.25)
    found = interval([constant], mean, draw(3, 20))
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)
    values = np.random.default_rng(1).random((3, 20))
    assert interval([values], mean, draw(3, 20)) == interval([values], mean, draw(3, 20))


def test_the_interval_of_one_seed_is_the_textbook_one():
    values = np.random.default_rng(2).normal(0, 1, (1, 400))
    found = interval([values], mean, draw(1, 400, 4000))
    stderr = values.std() / 20
    assert found.high - found.low == pytest.approx(2 * 1.96 * stderr, rel=0.08)


def simulated(truth: np.random.Generator, gap: float = 0.0) -> tuple[Array, Array]:
    """Two arms, three seeds, 200 prompts that are easy or hard for both; `gap` apart in truth."""
    easy = truth.normal(0, 0.4, (1, 200))
    arms = [easy + truth.normal(0, 0.3, (3, 200)) + truth.normal(0, 0.01, (3, 1)) for _ in range(2)]
    return arms[0] + gap, arms[1]


def test_under_the_null_95_of_100_intervals_hold_0():
    truth, draws = np.random.default_rng(3), draw(3, 200, 300)
    held = 0
    for _ in range(200):
        ours, theirs = simulated(truth)
        found = paired_difference([ours], [theirs], mean, draws)
        held += found.low <= 0 <= found.high
    assert 0.93 <= held / 200 <= 1.0


def test_pairing_finds_what_unpaired_intervals_hide():
    truth, draws = np.random.default_rng(4), draw(3, 200, 300)
    paired = unpaired = 0
    for _ in range(100):
        ours, theirs = simulated(truth, gap=0.08)
        found = paired_difference([ours], [theirs], mean, draws)
        assert found.mean == pytest.approx(ours.mean() - theirs.mean())
        paired += found.low > 0
        unpaired += interval([ours], mean, draws).low > interval([theirs], mean, draws).high
    assert paired >= 75
    assert unpaired <= 25


def test_the_same_prompts_are_drawn_for_both_arms():
    """Every prompt differs by exactly 0.1, so no replicate can differ by anything else."""
    values = np.random.default_rng(5).random((2, 30))
    found = paired_difference([values + 0.1], [values[:, :]], mean, draw(2, 30))
    assert (found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.1))


def test_seeds_that_differ_widen_the_interval():
    prompts = np.random.default_rng(6).normal(0, 0.1, (1, 300))
    same, apart = prompts + np.zeros((3, 1)), prompts + np.array([[-0.3], [0.0], [0.3]])
    narrow, wide = (interval([v], mean, draw(3, 300)) for v in (same, apart))
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)
