import math
from typing import Any

import pytest

from uniapl.config.schedules import (
    HalfCosine,
    is_ever_positive,
    learning_rate_factor,
    rest_of,
    weight_at,
)
from uniapl.config.schema import OptimizerConfig


def values(weight: Any, steps: int = 10) -> list[float]:
    return [weight_at(weight, step, steps) for step in range(steps)]


def test_a_number_is_constant() -> None:
    assert values(0.3, 3) == [0.3, 0.3, 0.3]
    assert values(1, 2) == [1.0, 1.0]


def test_a_jump_belongs_to_what_comes_after() -> None:
    assert values(((0.5, 1.0), (0.5, 0.0))) == [1.0] * 5 + [0.0] * 5
    assert values(((0.5, 0.0), (0.5, 1.0)), 5) == [0.0] * 3 + [1.0] * 2
    # a fraction that is no exact binary number
    for steps in range(1, 60):
        for jump in range(steps + 1):
            fraction = jump / steps
            expected = [1.0] * jump + [0.0] * (steps - jump)
            assert values(((fraction, 1.0), (fraction, 0.0)), steps) == expected


def test_points_are_joined_by_lines_and_constant_outside() -> None:
    got = values(((0.2, 1.0), (0.6, 0.0), (0.8, 0.5)))
    expected = [1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.25, 0.5, 0.5]
    assert got == pytest.approx(expected)


def test_line_then_jump_then_line() -> None:
    got = values(((0.0, 0.0), (0.5, 1.0), (0.5, 3.0), (1.0, 2.0)), 4)
    assert got == pytest.approx([0.0, 0.5, 3.0, 2.5])


def test_one_point_is_a_constant() -> None:
    assert values(((0.5, 0.7),), 4) == [0.7] * 4


def test_a_jump_at_the_start_or_the_end() -> None:
    assert values(((0.0, 1.0), (0.0, 0.0)), 3) == [0.0] * 3
    assert values(((1.0, 1.0), (1.0, 0.0)), 3) == [1.0] * 3


def test_half_a_cosine_by_hand() -> None:
    """CHORD's μ: a line to the peak in 3 of 8 steps, half a cosine in 4, then the end."""
    got = values(HalfCosine(peak=0.9, end=0.1, warmup=3 / 8, decay=4 / 8), 8)
    diagonal = (1 + math.cos(math.pi / 4)) / 2
    falling = (0.9, 0.1 + 0.8 * diagonal, 0.5, 0.1 + 0.8 * (1 - diagonal), 0.1)
    assert got == pytest.approx([0.0, 0.3, 0.6, *falling])


def test_half_a_cosine_without_a_warm_up_or_a_decay() -> None:
    assert values(HalfCosine(warmup=0, decay=0.5), 4) == pytest.approx([0.5, 0.26, 0.02, 0.02])
    assert values(HalfCosine(warmup=0.5, decay=0), 4) == pytest.approx([0.0, 0.25, 0.02, 0.02])
    assert values(HalfCosine(start=1, peak=0.3, end=0.3, warmup=0, decay=0), 3) == [0.3] * 3


@pytest.mark.parametrize(
    "weight", [0.3, 1, ((0.0, 1.0), (0.5, 0.25), (0.5, 0.0)), HalfCosine(), HalfCosine(start=0.4)]
)
def test_a_weight_and_the_rest_of_it_are_one(weight: Any) -> None:
    pairs = zip(values(weight, 20), values(rest_of(weight), 20), strict=True)
    assert [one + other for one, other in pairs] == pytest.approx([1.0] * 20)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (HalfCosine(peak=0, end=0), False),
        (HalfCosine(), True),
        (0.0, False),
        (0, False),
        (0.1, True),
        (((0.0, 0.0),), False),
        (((0, 0.0), (1, 0.1)), True),
    ],
)
def test_is_ever_positive(weight: Any, expected: bool) -> None:
    assert is_ever_positive(weight) is expected


def factors(steps: int, **changes: Any) -> list[float]:
    config = OptimizerConfig(**changes)
    return [learning_rate_factor(config, step, steps) for step in range(steps)]


def test_constant_rate_after_the_warm_up() -> None:
    assert factors(6, warmup_steps=4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert factors(3) == [1.0] * 3


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("warmup_steps", [0, 3])
def test_falling_rate_ends_at_the_final_fraction(schedule: str, warmup_steps: int) -> None:
    got = factors(12, schedule=schedule, warmup_steps=warmup_steps)
    assert got[warmup_steps] == 1.0
    assert got[-1] == pytest.approx(0.1)
    falling = got[warmup_steps:]
    assert falling == sorted(falling, reverse=True)
    assert len(set(falling)) == len(falling)


def test_linear_and_cosine_by_hand() -> None:
    linear = factors(5, schedule="linear")
    assert linear == pytest.approx([1.0, 0.775, 0.55, 0.325, 0.1])
    cosine = factors(5, schedule="cosine")
    quarter = (1 + math.cos(math.pi / 4)) / 2
    assert cosine == pytest.approx([1.0, 0.1 + 0.9 * quarter, 0.55, 0.1 + 0.9 * (1 - quarter), 0.1])


def test_rate_stays_at_the_end_and_short_runs_are_defined() -> None:
    config = OptimizerConfig(schedule="linear")
    assert learning_rate_factor(config, 50, 5) == pytest.approx(0.1)
    assert factors(1, schedule="cosine") == [1.0]
    assert factors(3, schedule="cosine", warmup_steps=3) == pytest.approx([1 / 3, 2 / 3, 1.0])
