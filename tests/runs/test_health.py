"""Warnings: said when a smoothed metric leaves its band, once in a while, never too early."""

import pytest

from uniapl.config.keys import all_keys
from uniapl.runs import health
from uniapl.runs.health import QUIET_STEPS, SMOOTHING, HealthWatch, InstructionWatch
from uniapl.runs.metrics import DEFINITIONS
from uniapl.types import FinishReason, Prompt, Rollout

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
        ("rollout/truncated_fraction", 0.5, "rollout.max_completion_tokens"),
        ("rollout/zero_std_group_fraction", 1.0, "reward functions"),
        ("policy/sampling_gap", 0.5, "rollout.importance_cap"),
        ("policy/sampling_gap", 0.11, "trainer and generator disagree"),
        ("optimizer/moved_fraction", 0.0, "raise optimizer.learning_rate"),
        ("policy/clip_fraction", 0.8, "rollout.updates_per_rollout"),
    ],
)
def test_out_of_band_is_said_with_what_to_do(name: str, value: float, advice: str):
    (line,) = HealthWatch().warnings(1, {name: value}, 0)
    assert line.startswith(f"{name} {value:.2f}: ")
    assert advice in line


def test_inside_the_band_is_silence():
    metrics = dict.fromkeys(DEFINITIONS, 0.0) | {ACCURACY: 0.6, "optimizer/moved_fraction": 0.2}
    metrics["policy/sampling_gap"] = 0.05
    assert HealthWatch().warnings(1, metrics, 0) == []
    assert HealthWatch().warnings(1, dict.fromkeys(DEFINITIONS, None), 0) == []


def test_one_odd_step_is_no_news():
    assert steps_with_warnings([0.6, 1.0, 0.6]) == []
    # 0.6 → 1 - 0.4·0.8^n exceeds 0.95 first at n = 10
    assert 1 - 0.4 * SMOOTHING**10 > 0.95 > 1 - 0.4 * SMOOTHING**9
    assert steps_with_warnings([0.6, *[1.0] * 12]) == [11]


def test_a_warning_is_repeated_rarely():
    assert steps_with_warnings([1.0] * 60) == [1, 1 + QUIET_STEPS, 1 + 2 * QUIET_STEPS]


def test_the_discriminator_is_left_alone_while_it_warms_up():
    assert steps_with_warnings([1.0] * 6, quiet=4) == [5]
    assert steps_with_warnings([1.0] * 6, "rollout/truncated_fraction", quiet=4) == [1]


def test_a_step_without_the_metric_changes_nothing():
    assert steps_with_warnings([None, 1.0, None]) == [2]


def test_advice_names_real_metrics_and_keys():
    keys = {key.path for key in all_keys()}
    sections = {key.partition(".")[0] for key in keys}
    for name, band in health._BANDS.items():
        assert name in DEFINITIONS
        for word in f"{band.below} {band.above}".replace("=", " ").split():
            path = word.strip(";:,.")
            if path.partition(".")[0] in sections and "." in path:
                assert path in keys


def rollouts(completion: str, count: int, reason: FinishReason = "stop") -> list[Rollout]:
    columns = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    prompt = Prompt("p", ({"role": "user", "content": "Write."},), (1,), False, columns)
    return [Rollout(prompt, completion, (2,), (-1.0,), reason) for _ in range(count)]


@pytest.mark.parametrize(
    ("completion", "reason", "line"),
    [
        ("a b", "stop", "punctuation:no_comma: all of 100 rollouts followed it"),
        ("a, b", "stop", "punctuation:no_comma: none of 100 rollouts followed it"),
        ("a b", "length", "punctuation:no_comma: none of 100 rollouts followed it"),
    ],
)
def test_a_type_that_teaches_nothing_is_named(completion: str, reason: FinishReason, line: str):
    watch = InstructionWatch()
    some = rollouts(completion, 50, reason)
    assert watch.warnings(5, some) == []
    assert watch.warnings(6, some) == []  # between two looks
    (warning,) = watch.warnings(10, some)
    assert warning.startswith(line)
    hundred = rollouts(completion, 100, reason)
    assert watch.warnings(30, hundred) == []  # not so soon again
    assert len(watch.warnings(35, hundred)) == 1


def test_a_type_that_is_followed_now_and_then_is_none():
    watch = InstructionWatch()
    assert watch.warnings(5, rollouts("a, b", 99) + rollouts("a b", 1)) == []
    assert watch.counts == {}  # the next hundred are judged on their own
    plain = Prompt("p", ({"role": "user", "content": "Write."},), (1,))
    assert watch.warnings(10, [Rollout(plain, "a", (2,), (-1.0,), "stop")] * 200) == []
