import math

from exact import assert_close

from uniapl.objective.constraint import constraint_state, next_weight, smooth

BOUNDS = (0.01, 1.0)


def test_smooth_starts_at_the_first_value() -> None:
    average = smooth(None, 0.9, 0.8)
    assert average == 0.9
    assert_close(smooth(average, 0.4, 0.8), 0.8 * 0.9 + 0.2 * 0.4)


def test_weight_grows_where_the_expert_is_far() -> None:
    assert_close(next_weight(0.1, 0.9, 0.6, 0.5, BOUNDS), 0.1 * math.exp(0.15))
    assert_close(next_weight(0.1, 0.5, 0.6, 0.5, BOUNDS), 0.1 * math.exp(-0.05))
    assert next_weight(0.1, 0.6, 0.6, 0.5, BOUNDS) == 0.1


def test_weight_stays_within_its_bounds_and_comes_back() -> None:
    assert next_weight(0.99, 1.0, 0.6, 0.5, BOUNDS) == 1.0
    assert next_weight(0.0101, 0.0, 0.6, 0.5, BOUNDS) == 0.01
    assert 0.01 < next_weight(0.01, 0.9, 0.6, 0.5, BOUNDS) < 0.02
    assert 0.5 < next_weight(1.0, 0.3, 0.6, 0.5, BOUNDS) < 1.0


def test_state_says_slack_active_or_saturated() -> None:
    assert [constraint_state(w, BOUNDS) for w in (0.01, 0.3, 1.0)] == [-1, 0, 1]
