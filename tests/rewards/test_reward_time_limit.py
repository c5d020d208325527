"""Where reward functions run, and how they are stopped: with real signals, on real threads."""

import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from uniapl.errors import TrainingError
from uniapl.rewards import build_reward, score
from uniapl.types import Prompt, Rollout

PROMPT = Prompt("a", ({"role": "user", "content": "x"},), (1,))
ROLLOUTS = [Rollout(PROMPT, "y", (7,), (-0.1,), "stop")] * 3


def scored(function, **keywords):
    return [one.total for one in score(ROLLOUTS, [build_reward(function, **keywords)])]


def test_plain_functions_run_on_the_main_thread_and_asynchronous_ones_beside():
    seen = {}

    def plain(completions):
        seen["plain"] = threading.current_thread()
        return [1.0] * len(completions)

    async def beside(completions):
        seen["async"] = threading.current_thread()
        return [1.0] * len(completions)

    score(ROLLOUTS, [build_reward(plain), build_reward(beside)])
    assert seen["plain"] is threading.main_thread()
    assert seen["async"] is not threading.main_thread()


def with_alarm(completions):
    """A time limit by SIGALRM, as math-verify sets it for each answer."""

    def stop(_number, _frame):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    try:
        values = []
        for index, _ in enumerate(completions):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            try:
                time.sleep(1.0 if index == 1 else 0.0)
                values.append(1.0)
            except TimeoutError:
                values.append(0.0)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        return values
    finally:
        signal.signal(signal.SIGALRM, before)


def swallowing(completions):
    try:
        return with_alarm(completions)
    except Exception:  # as careless as rewards are
        return [0.0] * len(completions)


@pytest.mark.parametrize("function", [with_alarm, swallowing])
def test_functions_can_limit_their_own_time_by_an_alarm(function):
    before = signal.getsignal(signal.SIGALRM)
    assert scored(function) == [1.0, 0.0, 1.0]
    assert signal.getsignal(signal.SIGALRM) is before


def sleeps(completions):
    time.sleep(10)


def counts(completions):
    while True:
        pass


def backtracks(completions):
    re.match(r"(a+)+$", "a" * 60 + "b")  # lets no other thread run, for ages


def takes_it_for_a_wrong_answer(completions):
    try:
        time.sleep(10)
    except Exception:  # as careless as rewards are
        return [0.0] * len(completions)


def takes_everything_for_a_wrong_answer(completions):
    try:
        time.sleep(10)
    except BaseException:  # more careless than most
        return [0.0] * len(completions)


def turns_it_into_an_error(completions):
    try:
        time.sleep(10)
    except BaseException as error:
        raise ValueError("no answer") from error


def has_used_the_alarm(completions):
    with_alarm(completions)
    time.sleep(10)


@pytest.mark.parametrize(
    "function",
    [
        sleeps,
        counts,
        backtracks,
        takes_it_for_a_wrong_answer,
        takes_everything_for_a_wrong_answer,
        turns_it_into_an_error,
        has_used_the_alarm,
    ],
)
def test_what_takes_too_long_is_interrupted(function):
    begin = time.monotonic()
    with pytest.raises(TrainingError) as caught:
        scored(function, name="slow", timeout_seconds=0.3)
    assert str(caught.value) == "reward slow took longer than its timeout_seconds 0.3"
    assert time.monotonic() - begin < 5
    # nothing is left that could hit the next call
    assert scored(lambda completions: [1.0] * len(completions)) == [1.0] * 3
    time.sleep(0.4)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_cleaning_up_is_not_interrupted_again():
    cleaned = []

    def careful(completions):
        try:
            while True:
                pass
        finally:
            begin = time.process_time()
            while time.process_time() < begin + 0.4:
                pass
            cleaned.append(True)

    with pytest.raises(TrainingError, match="took longer"):
        scored(careful, timeout_seconds=0.2)
    assert cleaned == [True]


def test_computing_on_many_threads_is_not_taken_for_time():
    def busy(completions):
        end = time.monotonic() + 0.5

        def work():
            while time.monotonic() < end:
                sum(range(1000))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [1.0] * len(completions)

    assert scored(busy, timeout_seconds=30.0) == [1.0] * 3
    # the timer of computing time comes first, and is set again
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def early(completions):
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.01)
        begin = time.process_time()
        while time.process_time() < begin + 0.1:
            pass
        assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 1
        return [1.0] * len(completions)

    assert scored(early, timeout_seconds=30.0) == [1.0] * 3


def test_off_the_main_thread_a_call_has_a_thread_of_its_own():
    found = []

    def elsewhere():
        found.append(scored(lambda completions: [1.0] * len(completions)))
        try:
            scored(sleeps, timeout_seconds=0.05)
        except TrainingError as error:
            found.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(5)
    assert found == [[1.0] * 3, "reward sleeps took longer than its timeout_seconds 0.05"]


@pytest.mark.parametrize("seconds", [float("inf"), 1e300])
def test_a_limit_longer_than_any_timer(seconds):
    assert scored(lambda completions: [1.0] * 3, timeout_seconds=seconds) == [1.0] * 3


SCRIPT = """
import time
from uniapl.rewards import build_reward, score, time_limit
from uniapl.types import Prompt, Rollout

time_limit.GRACE_SECONDS = 0.5
prompt = Prompt("a", ({"role": "user", "content": "x"},), (1,))

def deaf(completions):
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

def counts_in_c(completions):
    return [sum(range(10**13))]

score([Rollout(prompt, "y", (7,), (-0.1,), "stop")], [build_reward(FUNCTION, timeout_seconds=0.2)])
"""


def end_of(function):
    command = [sys.executable, "-c", SCRIPT.replace("FUNCTION", function)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_what_cannot_be_interrupted_ends_the_process_with_one_line():
    done = end_of("deaf")
    assert done.returncode == 1
    assert done.stderr == (
        "\nerror: reward deaf took longer than its timeout_seconds 0.2 and could not be interrupted within "
        "0.5 seconds; the process ends\n"
    )


def test_c_code_that_lets_nothing_else_run_ends_the_process_too():
    done = end_of("counts_in_c")
    assert done.returncode == 1
    assert done.stderr.startswith("Timeout (0:00:01.2")
    assert "in counts_in_c\n" in done.stderr
