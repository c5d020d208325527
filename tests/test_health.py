"""Judgements of metrics: sure, or not said; once in a while, never too early."""

import itertools

import pytest

from uniapl.config.keys import all_keys
from uniapl.health import (
    BANDS,
    FEWEST_STEPS,
    QUIET_STEPS,
    WINDOW_STEPS,
    HealthWatch,
    judge,
    student_factor,
)
from uniapl.runs.metrics import DEFINITIONS

ACCURACY = "discriminator/accuracy"


def steps_with_warnings(values: list[float | None], name: str = ACCURACY, quiet: int = 0):
    watch = HealthWatch()
    return [i for i, v in enumerate(values, start=1) if watch.warnings(i, {name: v}, quiet)]


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        (ACCURACY, 0.99, "lower discriminator.learning_rate"),
        (ACCURACY, 0.1, "raise discriminator.learning_rate"),
        ("discriminator/length_correlation", 0.9, "by being long"),
        ("discriminator/length_correlation", -0.9, "by being short"),
        ("discriminator/repetition_correlation", 0.9, "repeat themselves"),
        ("constraint/state", 1.0, "raise constraint.target"),
        ("rollout/truncated_fraction", 0.5, "rollout.max_completion_tokens"),
        ("rollout/zero_std_group_fraction", 1.0, "reward functions"),
        ("policy/sampling_gap", 0.5, "rollout.importance_cap"),
        ("policy/sampling_gap", 0.11, "trainer and generator disagree"),
        ("optimizer/moved_fraction", 0.0, "raise optimizer.learning_rate"),
        ("policy/clip_fraction", 0.8, "rollout.updates_per_rollout"),
    ],
)
def test_out_of_band_is_said_with_what_to_do(name: str, value: float, advice: str):
    found = judge(name, [value] * FEWEST_STEPS)
    assert found.state == "off"
    assert found.line.startswith(f"{name} {value:.2f} ± 0.00: ")
    assert advice in found.line


def test_inside_the_band_is_silence():
    metrics = dict.fromkeys(DEFINITIONS, 0.0) | {ACCURACY: 0.6, "optimizer/moved_fraction": 0.2}
    metrics["policy/sampling_gap"] = 0.05
    watch, nothing = HealthWatch(), dict.fromkeys(DEFINITIONS, None)
    for step in range(1, 30):
        assert watch.warnings(step, metrics, 0) == []
        assert watch.warnings(step, nothing, 0) == []
    assert {found.state for found in watch.findings()} == {"sound"}
    assert {found.name for found in watch.findings()} == set(BANDS)


def test_the_error_is_that_of_the_mean_over_steps():
    # mean 0.3; deviations ±0.1 over 5 values: variance 0.04 / 4 = 0.01; error √(0.01 / 5) = 0.0447
    values = [0.2, 0.4, 0.3, 0.2, 0.4]
    assert judge(ACCURACY, values).line.startswith(f"{ACCURACY} 0.30 ± 0.04: the discriminator")


@pytest.mark.parametrize("centre", [0.44, 0.5, 0.56])
def test_an_accuracy_of_a_half_and_noise_is_neither_sound_nor_broken(centre: float):
    # values ±0.15 around the centre: error 0.154 / √20 = 0.034; 0.44 and 0.56 lie 1.7 errors from 0.5, not 2.09
    values = [centre + sign * 0.15 for sign in (1, -1)] * (WINDOW_STEPS // 2)
    found = judge(ACCURACY, values)
    assert found.state == "unsure"
    assert "cannot tell" in found.line
    watch = HealthWatch()
    assert not any(watch.warnings(i, {ACCURACY: v}, 0) for i, v in enumerate(values, start=1))


def test_a_mean_that_is_surely_out_is_said_for_all_its_noise():
    values = [0.4 + sign * 0.15 for sign in (1, -1)] * (WINDOW_STEPS // 2)  # 2.9 errors below 0.5
    assert judge(ACCURACY, values).state == "off"


def test_few_steps_need_a_wide_margin():
    # 0.3, 0.4, 0.5: error 0.1 / √3 = 0.058; 0.4 lies 1.7 errors below 0.5, and three values need 4.30
    assert judge(ACCURACY, [0.3, 0.4, 0.5]).state == "unsure"
    # 0.1, 0.2, 0.3 lies 5.2 errors below
    assert judge(ACCURACY, [0.1, 0.2, 0.3]).state == "off"
    assert (student_factor(2), student_factor(20), student_factor(500)) == (12.71, 2.09, 2.09)


def test_few_steps_tell_nothing():
    found = judge(ACCURACY, [0.1] * (FEWEST_STEPS - 1))
    assert (found.state, found.line) == ("unsure", f"{ACCURACY} 0.10: cannot tell from 2 steps")
    assert steps_with_warnings([0.1] * FEWEST_STEPS) == [FEWEST_STEPS]


def test_only_the_last_steps_count():
    good = [0.7] * WINDOW_STEPS
    assert judge(ACCURACY, [0.1] * 100 + good) == judge(ACCURACY, good)
    watch = HealthWatch()
    for step in range(1, 60):
        watch.warnings(step, {ACCURACY: 0.7}, 0)
    assert len(watch.recent[ACCURACY]) == WINDOW_STEPS


def test_one_odd_step_is_no_news():
    assert steps_with_warnings([0.6, 1.0, 0.6, 0.6, 0.6, 1.0, 0.6]) == []


def test_a_warning_is_repeated_rarely():
    first = FEWEST_STEPS
    assert steps_with_warnings([1.0] * 60) == [first, first + QUIET_STEPS, first + 2 * QUIET_STEPS]


@pytest.mark.parametrize(("name", "first"), [(ACCURACY, 7), ("constraint/state", 7)])
def test_the_discriminator_is_left_alone_while_it_warms_up(name: str, first: int):
    assert steps_with_warnings([1.0] * 12, name, quiet=4) == [first]
    assert steps_with_warnings([1.0] * 12, "rollout/truncated_fraction", quiet=4) == [3]


def test_a_step_without_the_metric_changes_nothing():
    values: list[float | None] = list(itertools.chain(*[(None, 1.0)] * FEWEST_STEPS))
    assert steps_with_warnings(values) == [2 * FEWEST_STEPS]


def test_advice_names_real_metrics_and_keys():
    keys = {key.path for key in all_keys()}
    sections = {key.partition(".")[0] for key in keys}
    for name, band in BANDS.items():
        assert name in DEFINITIONS
        assert (band.low is None) == (not band.below)
        assert (band.high is None) == (not band.above)
        for word in f"{band.below} {band.above}".replace("=", " ").split():
            path = word.strip(";:,.")
            if path.partition(".")[0] in sections and "." in path:
                assert path in keys
