"""TRL's further arguments, through `score`: `trainer_state`, `log_extra` and `log_metric`."""

import json
import math

import numpy as np
import pytest
import torch

from uniapl.errors import InputError, TrainingError
from uniapl.rewards import TrainerState, build_reward, build_rewards, check_columns, score
from uniapl.types import Prompt, Rollout


def rollout(completion, *, conversational=False):
    prompt = Prompt(completion, ({"role": "user", "content": "x"},), (1,), conversational)
    return Rollout(prompt, completion, (7,), (-0.1,), "stop")


ROLLOUTS = [rollout("a"), rollout("bb"), rollout("ccc")]
STATE = TrainerState(global_step=3, max_steps=10, epoch=0.5)


def lengths(completions):
    return [float(len(completion)) for completion in completions]


def test_functions_get_what_they_name_or_everything():
    seen = {}

    def names_one(completions, trainer_state=None):
        seen["one"] = trainer_state
        share = trainer_state.global_step / trainer_state.max_steps
        return [share * value for value in lengths(completions)]

    def takes_all(completions, **kwargs):
        seen["all"] = kwargs
        return lengths(completions)

    rewards = [build_reward(names_one), build_reward(takes_all), build_reward(lengths)]
    check_columns(rewards, [])
    done = score(ROLLOUTS, rewards, trainer_state=STATE)
    assert [one.breakdown["names_one"] for one in done] == pytest.approx([0.3, 0.6, 0.9])
    assert seen["one"] is STATE
    assert seen["all"]["trainer_state"] is STATE
    assert {"log_extra", "log_metric"} <= seen["all"].keys()


def test_a_state_says_nothing_that_it_does_not_know():
    def asks(completions, trainer_state):
        return [trainer_state.num_train_epochs] * len(completions)

    with pytest.raises(TrainingError, match="AttributeError: 'TrainerState' object has no attr"):
        score(ROLLOUTS, [build_reward(asks)], trainer_state=STATE)


def test_logged_columns_come_with_their_rollouts_and_metrics_as_means():
    def judged(completions, log_extra, log_metric):
        for completion in completions:  # in pieces, as TRL allows
            log_extra("guess", [completion.upper()])
        log_extra("length", np.array([len(completion) for completion in completions]))
        log_extra("parts", [{"n": torch.tensor(1.5)}, (math.nan, None), {1}])
        log_metric("accuracy", 0.5)
        log_metric("accuracy", torch.tensor(1.0))
        log_metric("share", np.float32(0.25))
        return lengths(completions)

    async def beside(completions, log_metric, log_extra):
        log_extra("asked", [True] * len(completions))
        log_metric("accuracy", 2)
        return lengths(completions)

    logged = {}
    rewards = [build_reward(judged), build_reward(beside)]
    done = score(ROLLOUTS, rewards, logged=logged)
    assert logged == {"judged/accuracy": 0.75, "judged/share": 0.25, "beside/accuracy": 2.0}
    assert [dict(one.extra) for one in done] == [
        {"guess": "A", "length": 1, "parts": {"n": 1.5}, "asked": True},
        {"guess": "BB", "length": 2, "parts": ["nan", None], "asked": True},
        {"guess": "CCC", "length": 3, "parts": "{1}", "asked": True},
    ]


def test_an_integer_that_cannot_be_written_is_logged_as_text():
    def judged(completions, log_extra):
        log_extra("n", [10**5000, -(10**400), 10**300])
        return lengths(completions)

    done = score(ROLLOUTS, [build_reward(judged)])
    logged = [one.extra["n"] for one in done]
    assert logged == [hex(10**5000), hex(-(10**400)), 10**300]
    assert json.loads(json.dumps(logged)) == logged


def test_what_two_calls_log_is_put_together_in_order():
    def judged(completions, log_extra, log_metric):
        texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
        log_extra("text", texts)
        log_metric("count", len(texts))
        return [1.0] * len(texts)

    rollouts = [rollout("a"), rollout("b", conversational=True), rollout("c")]
    logged = {}
    done = score(rollouts, [build_reward(judged)], logged=logged)
    assert [one.extra["text"] for one in done] == ["a", "b", "c"]
    assert logged == {"judged/count": 1.5}


def error_of(*functions):
    with pytest.raises(TrainingError) as caught:
        score(ROLLOUTS, [build_reward(function) for function in functions])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_logged():
    def short(completions, log_extra):
        log_extra("guess", ["x"])
        return lengths(completions)

    def one(completions, log_extra):
        log_extra("guess", completions)
        return lengths(completions)

    def two(completions, log_extra):
        log_extra("guess", completions)
        return lengths(completions)

    def text(completions, log_metric):
        log_metric("accuracy", "high")

    def nameless(completions, log_metric):
        log_metric(None, 1.0)

    assert error_of(short) == ("reward short logged 1 values of the column guess for 3 completions")
    assert error_of(one, two) == (
        "reward two logs the column guess, which another function logs too; rename one"
    )
    assert error_of(text).startswith(
        "reward text raised InputError: log_metric: accuracy must be a number, got str (test_reward_context.py:"
    )
    assert error_of(nameless).startswith(
        "reward nameless raised InputError: log_metric: a name must be text, got NoneType ("
    )


@pytest.mark.parametrize("column", ["trainer_state", "log_extra", "log_metric"])
def test_columns_cannot_have_these_names(column):
    with pytest.raises(InputError, match=f"^the data's column `{column}` has the name of an arg"):
        check_columns([build_reward(lengths)], [column])


def test_a_reward_s_name_cannot_look_like_what_it_logs():
    with pytest.raises(InputError) as caught:
        build_rewards([{"function": lengths, "name": "a/b"}])
    assert str(caught.value) == ("a reward cannot be named a/b: a / separates it from what it logs")
