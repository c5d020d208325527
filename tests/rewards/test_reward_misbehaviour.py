"""Functions that edit what they are given, raise anything, or cannot be called by name."""

import asyncio
import copy
import sys
import time

import numpy as np
import pytest

from uniapl.errors import InputError, Stopped, TrainingError
from uniapl.rewards import build_reward, score
from uniapl.types import Prompt, Rollout


def rollout(*, conversational=False, **columns):
    prompt = Prompt("a", ({"role": "user", "content": "x"},), (1,), conversational, columns)
    return Rollout(prompt, "y", (7, 8), (-0.1, -0.2), "stop")


ROLLOUTS = [rollout(), rollout()]


def error_of(function):
    with pytest.raises(TrainingError) as caught:
        score(ROLLOUTS, [build_reward(function, name="odd", timeout_seconds=20)])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_a_function_edits_is_its_own():
    client = object()
    given = {"limits": {"words": [3]}, "clients": [client]}
    columns = {"answer": [2, 1], "facts": {"a": [1]}, "scores": np.array([2, 1])}
    rollouts = [rollout(conversational=True, **columns)] * 2
    seen = []

    def edits(prompts, completions, completion_ids, answer, facts, scores, **columns):
        assert columns["clients"][0] is client
        everything = (prompts, completions, completion_ids, answer, facts, columns["limits"])
        seen.append(copy.deepcopy((*everything, [list(one) for one in scores])))
        completions[0][0].update(content="HACK")
        prompts[0][0].clear()
        completion_ids[0].clear()
        answer[0].sort()  # of this completion, not of its sibling
        assert answer[1] == [2, 1]
        facts[0]["a"].append(2)
        scores[0].sort()
        columns["limits"]["words"].clear()
        return [1.0, 1.0]

    rewards = [build_reward(edits, name=name, arguments=given) for name in ("one", "two")]
    score(rollouts, rewards)
    score(rollouts, rewards)
    assert seen[1:] == seen[:1] * 3
    assert rollouts[0].prompt.columns["answer"] == [2, 1]
    assert rollouts[0].prompt.columns["facts"] == {"a": [1]}
    assert given["limits"] == {"words": [3]}


async def exits(completions):
    await asyncio.sleep(0)
    sys.exit(4)


async def exits_in_a_task(completions):
    async def ask():
        sys.exit(4)

    return await asyncio.gather(*(ask() for _ in completions))


async def is_interrupted(completions):
    raise KeyboardInterrupt


def hands_out(completions):
    return exits(completions)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (exits, "SystemExit: 4 ("),
        (exits_in_a_task, "SystemExit: 4 ("),
        (is_interrupted, "KeyboardInterrupt: ("),
        (hands_out, "SystemExit: 4 ("),
    ],
)
def test_an_exit_is_said_at_once_and_the_loop_lives_on(function, said):
    started = time.monotonic()
    message = error_of(function)
    assert message.startswith(f"reward odd raised RuntimeError: {said}test_reward_misbehaviour.py:")
    assert time.monotonic() - started < 10

    async def one(completions):
        await asyncio.sleep(0)
        return [1.0] * len(completions)

    assert [found.total for found in score(ROLLOUTS, [build_reward(one)])] == [1.0, 1.0]


class Silent(Exception):
    def __str__(self):
        raise ValueError


class Odd(BaseException):
    pass


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (asyncio.CancelledError(), "CancelledError ("),
        (Odd("hm"), "Odd: hm ("),
        (GeneratorExit(), "GeneratorExit ("),
        (Silent(), "Silent ("),
    ],
)
def test_whatever_is_raised_is_one_line(error, said):
    def raises(completions):
        raise error

    message = error_of(raises)
    assert message.startswith(f"reward odd raised {said}test_reward_misbehaviour.py:")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Stopped(15)])
def test_whoever_stops_a_run_stops_it(error):
    def raises(completions):
        raise error

    with pytest.raises(type(error)) as caught:
        score(ROLLOUTS, [build_reward(raises)])
    assert caught.value is error


def by_position(completions, /):
    return [1.0]


def by_position_or_not(completions=None, /, **columns):
    return [1.0]


def another_by_position(texts, /, completions):
    return [1.0]


def several(*completions, **columns):
    return [1.0]


def only_prompts(prompts):
    return [1.0]


def nothing(*texts):
    return [1.0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (by_position, "takes `completions` by position only, and .*; take the / out"),
        (by_position_or_not, "takes `completions` by position only, and .*; take the / out"),
        (another_by_position, "takes `texts` by position only, and .*; take the / out"),
        (several, r"takes `completions` by position only, and .*; take the \* out"),
        (only_prompts, "does not take `completions`; add it to its arguments$"),
        (nothing, "does not take `completions`; add it to its arguments$"),
    ],
)
def test_what_cannot_be_given_completions_is_refused_at_once(function, message):
    with pytest.raises(InputError, match=f"^reward odd {message}") as caught:
        build_reward(function, name="odd")
    assert "\n" not in str(caught.value)


def test_tokens_alone_can_be_judged():
    assert build_reward(lambda completion_ids: [1.0]).name == "<lambda>"
    assert build_reward(lambda finish_reasons: [1.0]).name == "<lambda>"
