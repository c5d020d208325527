"""One call of a user's reward function, in time.

Plain functions run on the main thread where scoring does, and `time_limit` interrupts them. Scoring on another thread
gives each call a daemon thread that a time-out leaves behind. Asynchronous functions share one event loop beside, which
lives as long as the process, because HTTP clients they keep are bound to the loop that first used them.
"""

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal

from uniapl.errors import TrainingError
from uniapl.rewards.time_limit import OutOfTime, call_within


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
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further keyword arguments, the same in every call."""

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.kind} {self.name}"

    @property
    def is_async(self) -> bool:
        """Whether calls may run at the same time as others."""
        call = getattr(self.function, "__call__", None)  # noqa: B004 - an object may have an async one
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call)


class AsyncCall:
    """A call of an asynchronous function, which has started."""

    def __init__(self, reward: NamedReward, arguments: Mapping[str, Any]) -> None:
        self._reward = reward
        self._deadline = time.monotonic() + reward.timeout_seconds
        self._future = asyncio.run_coroutine_threadsafe(_call(reward, arguments), _event_loop())

    def result(self) -> Any:
        """Wait for what the function returns.

        Raises:
            TrainingError: It took longer than the reward's limit, counted from the start of the call.
            BaseException: Whatever the function raised.
        """
        return _wait_for(self._future, self._reward, self._deadline)

    def cancel(self) -> None:
        """Give the call up."""
        self._future.cancel()


def call_plain(reward: NamedReward, arguments: Mapping[str, Any]) -> Any:
    """Return what a function that is not asynchronous returns; the coroutine that it may hand out is awaited.

    Raises:
        TrainingError: It took longer than the reward's limit.
        BaseException: Whatever the function raised.
    """
    deadline = time.monotonic() + reward.timeout_seconds
    call = partial(reward.function, **arguments)
    if threading.current_thread() is threading.main_thread():
        try:
            result = call_within(reward.timeout_seconds, reward.label, call)
        except OutOfTime as error:
            raise _too_slow(reward) from error
    else:
        result = _wait_for(_on_a_thread(reward.label, call), reward, deadline)
    if inspect.isawaitable(result):
        future = asyncio.run_coroutine_threadsafe(_wait(result), _event_loop())
        result = _wait_for(future, reward, deadline)
    return result


def _wait_for(future: "Future[Any]", reward: NamedReward, deadline: float) -> Any:
    done, _ = wait([future], timeout=max(deadline - time.monotonic(), 0.0))
    if not done:
        future.cancel()  # a thread cannot be stopped and runs on unheard
        raise _too_slow(reward)
    return future.result()


def _too_slow(reward: NamedReward) -> TrainingError:
    return TrainingError(
        f"{reward.label} took longer than its timeout_seconds {reward.timeout_seconds:g}"
    )


def _on_a_thread(name: str, call: Callable[[], Any]) -> "Future[Any]":
    future: Future[Any] = Future()
    # a running future cannot be cancelled, so the thread below may always set it
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:  # the thread that waits raises it again
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=_run, args=(loop,), name="async rewards", daemon=True).start()
    return loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):  # of a task that a user's function has started
            continue
        return


async def _call(reward: NamedReward, arguments: Mapping[str, Any]) -> Any:
    return await _wait(reward.function(**arguments))


async def _wait(awaitable: Awaitable[Any]) -> Any:
    """Return what a user's coroutine returns.

    Raises:
        RuntimeError: It raised what would end the event loop, and with it the calls beside it.
    """
    try:
        return await awaitable
    except (SystemExit, KeyboardInterrupt) as error:
        ended = RuntimeError(f"{type(error).__name__}: {error}")
        raise ended.with_traceback(error.__traceback__) from error
