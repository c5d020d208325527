"""Types of instructions that teach nothing: named now and then, never by a few rollouts."""

import pytest

from uniapl.runs.instruction_watch import InstructionWatch
from uniapl.types import FinishReason, Prompt, Rollout


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
