"""What reward functions may return, through `score`: numbers of every kind, or one clear line."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from uniapl.errors import TrainingError
from uniapl.rewards import build_reward, score
from uniapl.types import Prompt, Rollout


def rollout(prompt_id):
    prompt = Prompt(prompt_id, ({"role": "user", "content": "x"},), (1,))
    return Rollout(prompt, "y", (7,), (-0.1,), "stop")


ROLLOUTS = [rollout("a"), rollout("a"), rollout("b")]


def scored(result, **keywords):
    return score(ROLLOUTS, [build_reward(lambda completions: result, name="odd", **keywords)])


@pytest.mark.parametrize(
    "result",
    [
        [1, 2.0, True],
        (np.int64(1), np.float32(2), np.bool_(True)),
        [np.array(1), np.array([2.0]), np.float16(1)],
        [torch.tensor(1), torch.tensor([2.0]), torch.tensor(True)],
        [torch.tensor(1.0, requires_grad=True), torch.tensor(2.0, dtype=torch.bfloat16), 1],
        np.array([1, 2, 1]),
        torch.tensor([1.0, 2.0, 1.0], dtype=torch.float16, requires_grad=True),
        [Fraction(1), Decimal(2), 1],
    ],
)
def test_every_real_number_is_taken(result):
    values = [one.breakdown["odd"] for one in scored(result)]
    assert values == [1.0, 2.0, 1.0]
    assert {type(value) for value in values} == {float}


def test_none_is_no_opinion_and_large_numbers_stay_exact():
    assert [one.total for one in scored([None, 2**80, -(10**300)])] == [None, 2.0**80, -1e300]
    assert [one.total for one in scored([None] * 3)] == [None] * 3


HUGE = "returned a number above 1e308 for prompt b; scale it"
NO_NUMBER = "it must be a number, or None for no opinion"
NO_OPINION = "return None where there is no opinion"


class Unprintable:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (10**400, HUGE),
        (Fraction(10**400), HUGE),
        (float("nan"), f"returned nan for prompt b; {NO_OPINION}"),
        (float("-inf"), f"returned -inf for prompt b; {NO_OPINION}"),
        (np.float32("inf"), f"returned inf for prompt b; {NO_OPINION}"),
        (torch.tensor(float("nan")), f"returned nan for prompt b; {NO_OPINION}"),
        (Decimal("sNaN"), f"returned nan for prompt b; {NO_OPINION}"),
        (1j, f"returned 1j for prompt b; {NO_NUMBER}"),
        ("1.0", f"returned '1.0' for prompt b; {NO_NUMBER}"),
        ([10**5000], f"returned list for prompt b; {NO_NUMBER}"),
        (Unprintable(), f"returned Unprintable for prompt b; {NO_NUMBER}"),
        (np.array([1.0, 2.0]), f"returned array([1., 2.]) for prompt b; {NO_NUMBER}"),
        (
            torch.ones(2, 2),
            f"returned tensor([[1., 1.], [1., 1.]]) for prompt b; {NO_NUMBER}",
        ),
        ({"score": 1.0}, f"returned {{'score': 1.0}} for prompt b; {NO_NUMBER}"),
    ],
)
def test_what_is_no_number(value, message):
    with pytest.raises(TrainingError) as caught:
        scored([0.0, 0.0, value])
    assert str(caught.value) == f"reward odd {message}"


def test_an_integer_that_cannot_even_be_written():
    with pytest.raises(TrainingError) as caught:
        scored([0.0, 0.0, -(10**5000)])
    assert str(caught.value) == f"reward odd {HUGE}"


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([], "returned 0 values for 3 completions"),
        ([1.0] * 4, "returned 4 values for 3 completions"),
        (torch.zeros(2), "returned 2 values for 3 completions"),
        (torch.tensor(1.0), "returned float; it must return a list of numbers"),
        ({1.0, 2.0, 3.0}, "returned set; it must return a list of numbers"),
        (dict.fromkeys("abc", 1.0), "returned dict; it must return a list of numbers"),
        (iter([1.0] * 3), "returned list_iterator; it must return a list of numbers"),
        (
            np.zeros((3, 1)),
            "returned [0.0] for prompt a; it must be a number, or None for no opinion",
        ),
    ],
)
def test_what_is_no_list_of_numbers(result, message):
    with pytest.raises(TrainingError) as caught:
        scored(result)
    assert str(caught.value) == f"reward odd {message}"


def test_a_sum_that_is_not_finite():
    with pytest.raises(TrainingError) as caught:
        scored([1.0, 1e300, 1.0], weight=1e10)
    assert str(caught.value) == (
        "the weighted sum of the rewards is inf for prompt a; scale them or their weights"
    )


class Broken:
    size = 1

    def tolist(self):
        raise OSError("lost")

    item = tolist


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (Broken(), "Broken, whose tolist() raises OSError"),
        (np.ndarray, "type, whose tolist() raises TypeError"),
        (torch.eye(3).to_sparse(), "Tensor, whose tolist() raises "),
    ],
)
def test_what_cannot_be_made_a_list(result, message):
    with pytest.raises(TrainingError) as caught:
        scored(result)
    assert str(caught.value).startswith(f"reward odd returned {message}")
    assert str(caught.value).endswith("; it must return a list of numbers")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [Broken(), np.ndarray, torch.Tensor])
def test_a_value_that_cannot_be_read(value):
    with pytest.raises(TrainingError) as caught:
        scored([0.0, 0.0, value])
    assert str(caught.value).endswith(f"for prompt b; {NO_NUMBER}")
    assert "\n" not in str(caught.value)
