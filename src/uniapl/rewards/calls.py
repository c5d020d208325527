"""One call of a user's reward function: in time, off the main thread, with its values checked.

A Python function cannot be interrupted from outside, so each call runs on a daemon thread that a
time-out leaves behind; the run stops then anyway. Asynchronous functions share one event loop that lives
as long as the process, because HTTP clients they keep are bound to the loop that first used them.
"""

import asyncio
import inspect
import math
import numbers
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from uniapl.errors import TrainingError


@dataclass(frozen=True, slots=True)
class NamedReward:
    """A reward function and how its values enter the total."""

    function: Callable[..., Any]
    """TRL's signature, sync or async."""
    name: str
    weight: float = 1.0
    """Factor in the total; negative makes it a penalty."""
    timeout_seconds: float = 60.0
    """Of one call with all rollouts of a batch."""
    kind: Literal["reward", "metric"] = "reward"
    """What messages call it: evaluation runs its metrics as rewards without a total."""
    reads_thoughts: bool = False
    """Whether it receives whole completions, or answers without what the policy thought before them."""

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.kind} {self.name}"

    @property
    def is_async(self) -> bool:
        """Whether calls may run at the same time as others."""
        call = getattr(self.function, "__call__", None)  # noqa: B004 - an object may have an async one
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call)


class Call:
    """A call that has started."""

    def __init__(self, reward: NamedReward, arguments: Mapping[str, Any]) -> None:
        self._reward = reward
        self._deadline = time.monotonic() + reward.timeout_seconds
        self._future: Future[Any] = _start(reward, arguments)

    def result(self) -> Any:
        """Wait for what the function returns.

        Raises:
            TrainingError: it took longer than the reward's limit, counted from the start of the call.
            BaseException: whatever the function raised.
        """
        done, _ = wait([self._future], timeout=max(self._deadline - time.monotonic(), 0.0))
        if not done:
            self.cancel()
            raise TrainingError(
                f"{self._reward.label} took longer than its timeout_seconds "
                f"{self._reward.timeout_seconds:g}"
            )
        return self._future.result()

    def cancel(self) -> None:
        """Give the call up; a thread cannot be stopped and runs on unheard."""
        self._future.cancel()


def checked_values(
    reward: NamedReward, result: Any, prompt_ids: Sequence[str]
) -> list[float | None]:
    """Return a function's result as numbers, one per completion.

    Raises:
        TrainingError: it is no list, has another length, or holds something but finite numbers and None.
    """
    if hasattr(result, "tolist"):  # numpy arrays and tensors
        result = result.tolist()
    if not isinstance(result, list | tuple):
        raise TrainingError(
            f"{reward.label} returned {type(result).__name__}; it must return a list of numbers"
        )
    if len(result) != len(prompt_ids):
        raise TrainingError(
            f"{reward.label} returned {len(result)} values for {len(prompt_ids)} completions"
        )
    return [
        _number(reward, value, prompt_id)
        for value, prompt_id in zip(result, prompt_ids, strict=True)
    ]


def _number(reward: NamedReward, value: Any, prompt_id: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, numbers.Real) and hasattr(value, "item"):  # a tensor of one element
        value = value.item()
    if not isinstance(value, numbers.Real):
        raise TrainingError(
            f"{reward.label} returned {value!r:.60} for prompt {prompt_id}; "
            "it must be a number, or None for no opinion"
        )
    try:
        number = float(value)
    except OverflowError:  # 10**400
        number, value = math.inf, "a number beyond all floats"
    if not math.isfinite(number):
        raise TrainingError(
            f"{reward.label} returned {value} for prompt {prompt_id}; "
            "return None where there is no opinion"
        )
    return number


def _start(reward: NamedReward, arguments: Mapping[str, Any]) -> "Future[Any]":
    if reward.is_async:
        return asyncio.run_coroutine_threadsafe(_call(reward, arguments), _event_loop())
    future: Future[Any] = Future()
    # a running future cannot be cancelled, so the thread below may always set it
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = reward.function(**arguments)
            if inspect.isawaitable(result):  # a plain function that hands out a coroutine
                result = asyncio.run_coroutine_threadsafe(_wait(result), _event_loop()).result()
        except BaseException as error:  # the thread that waits raises it again
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=reward.label, daemon=True).start()
    return future


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="async rewards", daemon=True).start()
    return loop


async def _call(reward: NamedReward, arguments: Mapping[str, Any]) -> Any:
    return await reward.function(**arguments)


async def _wait(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
