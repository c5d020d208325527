import asyncio
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from uniapl.errors import InputError, TrainingError
from uniapl.rewards import build_reward, build_rewards, check_columns, column_names, score
from uniapl.types import FinishReason, Prompt, Reward, Rollout


def rollout(
    prompt_id, completion, *, conversational=False, reason: FinishReason = "stop", **columns
):
    turns = ({"role": "system", "content": "Hm."}, {"role": "user", "content": f"say {completion}"})
    prompt = Prompt(prompt_id, turns, (1, 2), conversational, columns)
    return Rollout(prompt, completion, (7, 8), (-0.1, -0.2), reason)


ROLLOUTS = [rollout("a", "x"), rollout("a", "yy"), rollout("b", "zzz")]


def length(completions, **columns):
    return [float(len(completion)) for completion in completions]


def only_b(completions):
    return [1.0 if completion.startswith("z") else None for completion in completions]


def error_of(rollouts, *rewards, error: type[Exception] = TrainingError, **keywords):
    with pytest.raises(error) as caught:
        score(rollouts, [build_reward(reward, **keywords) for reward in rewards])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_totals_are_weighted_and_breakdowns_are_not():
    rewards = [
        build_reward(length, weight=-0.5),
        build_reward(only_b, name="z", weight=4.0),
    ]
    assert score(ROLLOUTS, rewards) == [
        Reward(-0.5, {"length": 1.0, "z": None}),
        Reward(-1.0, {"length": 2.0, "z": None}),
        Reward(2.5, {"length": 3.0, "z": 1.0}),  # -0.5 * 3 + 4 * 1
    ]


def test_thoughts_are_no_part_of_a_completion_unless_asked_for():
    answered = rollout("a", "<think>a, b</think>yy")
    unfinished = replace(rollout("a", "a plan, no"), begins_thinking=True)
    mention = rollout("a", "end with </think>")
    several = [answered, unfinished, mention]
    whole = build_reward(length, name="whole", reads_thoughts=True)
    found = [one.breakdown for one in score(several, [build_reward(length), whole])]
    assert [one["length"] for one in found] == [2.0, 0.0, 17.0]
    assert [one["whole"] for one in found] == [21.0, 10.0, 17.0]
    columns = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    checked = [rollout("a", "<think>a, b</think>c", **columns)]
    checked.append(replace(checked[0], completion="no comma", begins_thinking=True))
    totals = [one.total for one in score(checked, [build_reward("instructions")])]
    assert totals == [1.0, 0.0]


def test_no_opinion_at_all_is_no_reward():
    assert [one.total for one in score(ROLLOUTS, [build_reward(only_b)])] == [None, None, 1.0]
    assert score(ROLLOUTS[:1], []) == [Reward(None, {})]
    assert score([], [build_reward(length)]) == []


def test_what_a_function_is_given():
    seen = {}

    def spy(prompts, completions, **columns):
        seen.update(columns, prompts=prompts, completions=completions)
        return [0] * len(prompts)

    rollouts = [rollout("a", "x", topic="sea"), rollout("b", "y", reason="length", key=3)]
    score(rollouts, [build_reward(spy)], columns=["never"])
    assert callable(seen.pop("log_extra"))
    assert callable(seen.pop("log_metric"))
    assert seen == {
        "trainer_state": None,
        "prompts": ["say x", "say y"],
        "completions": ["x", "y"],
        "completion_ids": [[7, 8], [7, 8]],
        "finish_reasons": ["stop", "length"],
        "topic": ["sea", None],
        "key": [None, 3],
        "never": [None, None],
    }


def test_conversational_data_comes_as_messages_and_plain_data_as_strings():
    calls = []

    def spy(prompts, completions, topic):
        calls.append((prompts, completions, topic))
        return [float(one) for one in topic]

    rollouts = [
        rollout("a", "x", topic=1),
        rollout("b", "y", conversational=True, topic=2),
        rollout("c", "z", topic=3),
    ]
    totals = [one.total for one in score(rollouts, [build_reward(spy)])]
    assert totals == [1.0, 2.0, 3.0]  # in the order of the rollouts, not of the calls
    turns = [dict(turn) for turn in rollouts[1].prompt.messages]
    assert calls == [
        (["say x", "say z"], ["x", "z"], [1, 3]),
        ([turns], [[{"role": "assistant", "content": "y"}]], [2]),
    ]


def test_functions_get_only_what_they_name_and_lists_of_their_own():
    def greedy(completions):
        completions.clear()
        return [0.0] * 3

    rewards = [build_reward(greedy), build_reward(length)]
    assert [one.breakdown["length"] for one in score(ROLLOUTS, rewards)] == [1.0, 2.0, 3.0]


def test_values_of_every_numeric_type():
    def numpy_array(completions):
        return np.array([1, 2, 3], dtype=np.float32)

    def mixed(completions):
        return (True, np.float32(0.5), np.array(2.0))

    rewards = [build_reward(numpy_array), build_reward(mixed)]
    results = [tuple(one.breakdown.values()) for one in score(ROLLOUTS, rewards)]
    assert results == [(1.0, 1.0), (2.0, 0.5), (3.0, 2.0)]
    assert {type(value) for row in results for value in row} == {float}


def test_async_functions_run_at_the_same_time_on_one_lasting_loop():
    started = [threading.Event(), threading.Event()]
    loops = []

    def waits_for_the_other(mine, other):
        async def reward(completions):
            loops.append(asyncio.get_running_loop())
            started[mine].set()
            # passes only if the other one runs too
            while not started[other].is_set():
                await asyncio.sleep(0.001)
            return [1.0] * len(completions)

        return reward

    class AsyncObject:
        async def __call__(self, completions):
            loops.append(asyncio.get_running_loop())
            return [2.0] * len(completions)

    rewards = [
        build_reward(waits_for_the_other(0, 1), name="one", timeout_seconds=5),
        build_reward(length),
        build_reward(waits_for_the_other(1, 0), name="two", timeout_seconds=5),
        build_reward(AsyncObject()),
        build_reward(lambda completions: AsyncObject()(completions), name="indirect"),
    ]
    for _ in range(2):
        [first, *_] = score(ROLLOUTS, rewards)
        # in the order of the configuration, whatever finished first
        assert list(first.breakdown) == ["one", "length", "two", "AsyncObject", "indirect"]
        assert first.total == 1 + 1 + 1 + 2 + 2
    assert len(set(loops)) == 1


def test_plain_functions_run_while_asynchronous_ones_wait():
    plain_ran, cancelled = threading.Event(), threading.Event()

    async def waits_for_plain(completions):
        while not plain_ran.is_set():
            await asyncio.sleep(0.001)
        return [1.0] * len(completions)

    async def endless(completions):
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    def plain(completions):
        plain_ran.set()
        return [1.0] * len(completions)

    rewards = [build_reward(waits_for_plain, timeout_seconds=5), build_reward(plain)]
    assert score(ROLLOUTS, rewards)[0].total == 2.0

    def raises(completions):
        raise ValueError

    # a failure does not leave requests of the others behind
    assert error_of(ROLLOUTS, endless, raises).startswith("reward raises raised ValueError (")
    assert cancelled.wait(5)


def test_scoring_inside_a_running_loop():
    async def one(completions):
        return [1.0] * len(completions)

    async def notebook():
        return score(ROLLOUTS, [build_reward(one)])

    assert asyncio.run(notebook())[0].total == 1.0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_call_that_takes_too_long(asynchronous):
    cancelled = threading.Event()

    def slow(completions):
        time.sleep(2)

    async def slow_async(completions):
        try:
            await asyncio.sleep(2)
        finally:
            cancelled.set()

    begin = time.monotonic()
    message = error_of(
        ROLLOUTS, slow_async if asynchronous else slow, name="slow", timeout_seconds=0.05
    )
    assert message == "reward slow took longer than its timeout_seconds 0.05"
    assert time.monotonic() - begin < 1
    assert not asynchronous or cancelled.wait(1)


def test_a_time_out_of_the_functions_own_is_an_error_of_the_function():
    async def impatient(completions):
        raise TimeoutError("the server said nothing")

    message = error_of(ROLLOUTS, impatient)
    assert message.startswith("reward impatient raised TimeoutError: the server said nothing (")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_function_that_raises_is_called_once(asynchronous):
    calls = []

    def picky(completions):
        calls.append(list(completions))
        for completion in completions:
            if completion == "text 4":
                raise ValueError("cannot\nparse")
        return [1.0] * len(completions)

    async def picky_async(completions):
        return picky(completions)

    rollouts = [rollout(f"id{number}", f"text {number}") for number in range(7)]
    message = error_of(rollouts, picky_async if asynchronous else picky, name="picky")
    assert message.startswith(
        "reward picky raised ValueError: cannot parse (test_reward_scoring.py:"
    )
    assert message.endswith(
        ") in a call with 7 completions of the prompts id0, id1, id2, id3, id4, ..."
    )
    assert calls == [[one.completion for one in rollouts]]


def test_the_prompt_is_named_where_there_is_only_one():
    def fails(completions):
        raise ValueError

    message = error_of([rollout("a", "x"), rollout("a", "y")], fails)
    assert message.startswith("reward fails raised ValueError (test_reward_scoring.py:")
    assert message.endswith(") for prompt a")


def test_exits_and_errors_of_the_checkers_are_failures_too():
    def quits(completions):
        sys.exit(3)

    assert " raised SystemExit: 3 (" in error_of(ROLLOUTS, quits)
    wrong = [rollout("q", "x", instruction_id_list=["no:such"], kwargs=[{}])]
    message = error_of(wrong, "instructions")
    assert message.startswith("reward instructions raised InstructionError: ")
    assert message.endswith(" for prompt q")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1.0, 2.0], "returned 2 values for 3 completions"),
        (None, "returned NoneType; it must return a list of numbers"),
        (3.0, "returned float; it must return a list of numbers"),
        ("abc", "returned str; it must return a list of numbers"),
        (np.float64(3.0), "returned float; it must return a list of numbers"),
        (
            [1.0, 2.0, float("nan")],
            "returned nan for prompt b; return None where there is no opinion",
        ),
        (
            [1.0, float("-inf"), 3.0],
            "returned -inf for prompt a; return None where there is no opinion",
        ),
        (
            [1.0, "2", 3.0],
            "returned '2' for prompt a; it must be a number, or None for no opinion",
        ),
        (
            [1.0, [2.0], 3.0],
            "returned [2.0] for prompt a; it must be a number, or None for no opinion",
        ),
    ],
)
def test_results_that_are_no_rewards(result, message):
    def odd(completions):
        return result

    assert error_of(ROLLOUTS, odd) == f"reward odd {message}"
    assert error_of(ROLLOUTS, odd, kind="metric") == f"metric odd {message}"


def needs_topic(completions, topic, style="plain"):
    return [1.0] * len(completions)


def test_columns_a_function_needs():
    rewards = [build_reward(needs_topic)]
    check_columns(rewards, ["kind", "topic"])
    message = (
        "reward needs_topic needs `topic`, which is no column of the data (columns: kind; always "
        "given: prompts, completions, completion_ids, finish_reasons, trainer_state, log_extra, log_metric)"
    )
    with pytest.raises(InputError) as caught:
        check_columns(rewards, ["kind"])
    assert str(caught.value) == message
    assert error_of([rollout("a", "x", kind=1)], needs_topic, error=InputError) == message
    # other rows of the data have it
    assert score(ROLLOUTS, rewards, columns=["topic"])[0].total == 1.0
    with pytest.raises(
        InputError, match=r"^the data's column `completions` has the name of an arg"
    ):
        check_columns(rewards, ["topic", "completions"])


def test_column_names_are_those_of_any_prompt():
    assert column_names(one.prompt for one in [rollout("a", "x", b=1), rollout("c", "x", a=1)]) == (
        "a",
        "b",
    )
    assert column_names([]) == ()


def test_rewards_of_a_configuration():
    here = __file__
    specs = [
        {"function": "instructions", "all_or_nothing": 0.5, "name": None, "weight": 1.0},
        {
            "function": f"{here}:length",
            "weight": 0.1,
            "all_or_nothing": 0.0,
            "timeout_seconds": 3.0,
        },
    ]
    first, second = build_rewards(specs)
    assert (first.name, first.weight, first.timeout_seconds) == ("instructions", 1.0, 60.0)
    assert (second.name, second.weight, second.timeout_seconds) == ("length", 0.1, 3.0)
    halves = [rollout("a", "x,", instruction_id_list=["punctuation:no_comma"] * 2, kwargs=[{}] * 2)]
    assert score(halves, [first])[0].total == 0.0


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([{"function": length}] * 2, "2 rewards are named length; give each its own `name`"),
        (
            [{"function": length, "name": "mean"}],
            "a reward cannot be named mean: reward/mean is a metric of the total",
        ),
        (
            [{"function": "math:fsum", "all_or_nothing": 0.5}],
            "reward math:fsum: all_or_nothing is only for `instructions`",
        ),
    ],
)
def test_configurations_that_do_not_fit(specs, message):
    with pytest.raises(InputError) as caught:
        build_rewards(specs)
    assert str(caught.value) == message


def test_the_process_ends_quietly_after_async_rewards_and_despite_stuck_ones():
    code = """
import time
from uniapl.rewards import build_reward, score
from uniapl.errors import TrainingError
from uniapl.types import Prompt, Rollout

async def quick(completions):
    return [1.0]

def stuck(completions):
    time.sleep(60)

rollouts = [Rollout(Prompt("a", ({"role": "user", "content": "x"},), (1,)), "y", (1,), (0.0,), "stop")]
score(rollouts, [build_reward(quick)])
try:
    score(rollouts, [build_reward(stuck, timeout_seconds=0.05)])
except TrainingError:
    print("stopped")
"""
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    # asyncio in development mode also tells of callbacks that took long, as they do on a busy machine
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert (done.returncode, done.stdout, complaints) == (0, "stopped\n", [])


@pytest.mark.parametrize("value", [10**400, 10**5000, -(10**400), float("inf")], ids=range(4))
def test_a_number_beyond_all_floats_is_an_error_of_one_line(value):
    message = error_of(ROLLOUTS, lambda completions: [1.0, 2.0, value])
    assert "prompt b" in message
    assert len(message) < 200


def test_a_sum_beyond_all_floats_is_an_error():
    rewards = [build_reward(lambda completions: [1e308] * 3, name="x", weight=10.0)]
    with pytest.raises(TrainingError, match="weighted sum of the rewards is inf for prompt a"):
        score(ROLLOUTS, rewards)
