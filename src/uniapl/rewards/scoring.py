"""Rollouts in, rewards out: `rewards = score(rollouts, reward_functions)` of a training step.

A reward that fails stops the run and names the prompt; nothing is ever replaced by 0.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from uniapl.errors import TrainingError
from uniapl.rewards.build import GIVEN, select_arguments
from uniapl.rewards.calls import Call, NamedReward, checked_values
from uniapl.rewards.functions import describe_error
from uniapl.types import Reward, Rollout


def score(
    rollouts: Sequence[Rollout], rewards: Sequence[NamedReward], columns: Sequence[str] = ()
) -> list[Reward]:
    """Return what each rollout earned, in order.

    What a policy thinks before it answers is no part of the completions that a function receives, unless it
    reads thoughts. Every function is called once with all rollouts (twice where conversational and plain prompts are
    mixed). Besides TRL's `prompts`, `completions` and `completion_ids`, and the columns of the data with
    None where a row lacks one, functions can take `finish_reasons`. Asynchronous functions run at the same
    time, and while the others run one after the other.

    Args:
        columns: Columns the functions get even if no row of this batch has them (`column_names`).

    Raises:
        TrainingError: a function raised, took too long, or did not return a finite number or None for
            each rollout; or their weighted sum is not finite.
        InputError: a function needs a column that is not there.
    """
    breakdowns: list[dict[str, float | None]] = [{} for _ in rollouts]
    for is_conversational in (False, True):
        chosen = [
            index
            for index, rollout in enumerate(rollouts)
            if rollout.prompt.is_conversational is is_conversational
        ]
        if not chosen:
            continue
        part = [rollouts[index] for index in chosen]
        for name, values in _score_alike(part, rewards, columns).items():
            for index, value in zip(chosen, values, strict=True):
                breakdowns[index][name] = value
    weights = {reward.name: reward.weight for reward in rewards}
    totals = [_total(breakdown, weights) for breakdown in breakdowns]
    for rollout, total in zip(rollouts, totals, strict=True):
        if total is not None and not math.isfinite(total):
            raise TrainingError(
                f"the weighted sum of the rewards of prompt {rollout.prompt.id} is {total}; lower a weight"
            )
    return [Reward(total, one) for total, one in zip(totals, breakdowns, strict=True)]


def _total(breakdown: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    opinions = [weights[name] * value for name, value in breakdown.items() if value is not None]
    return sum(opinions) if opinions else None


def _score_alike(
    rollouts: Sequence[Rollout], rewards: Sequence[NamedReward], columns: Sequence[str]
) -> dict[str, list[float | None]]:
    """Return the values by reward name, for rollouts that are all conversational or all not."""
    available = {whole: _arguments(rollouts, columns, whole) for whole in (False, True)}
    arguments = {
        reward.name: select_arguments(reward, available[reward.reads_thoughts])
        for reward in rewards
    }
    running = {
        reward.name: Call(reward, arguments[reward.name]) for reward in rewards if reward.is_async
    }
    prompt_ids = [rollout.prompt.id for rollout in rollouts]
    values = {}
    try:
        # plain functions first: the asynchronous ones run meanwhile
        for reward in sorted(rewards, key=lambda reward: reward.is_async):
            call = running.get(reward.name) or Call(reward, arguments[reward.name])
            try:
                result = call.result()
            except TrainingError:
                raise
            except (Exception, SystemExit) as error:
                given = select_arguments(reward, available[reward.reads_thoughts])
                raise _failure(reward, given, prompt_ids, error) from error
            values[reward.name] = checked_values(reward, result, prompt_ids)
    finally:
        for call in running.values():
            call.cancel()
    return {reward.name: values[reward.name] for reward in rewards}


def _arguments(
    rollouts: Sequence[Rollout], columns: Sequence[str], whole: bool
) -> dict[str, list[Any]]:
    """Return everything a reward function can take, one value per rollout.

    Args:
        rollouts: All conversational, or none.
        columns: As in `score`.
        whole: Whether completions hold what the policy thought.
    """
    texts = [rollout.completion if whole else rollout.answer for rollout in rollouts]
    names = dict.fromkeys([*columns, *(name for one in rollouts for name in one.prompt.columns)])
    arguments: dict[str, list[Any]] = {
        name: [rollout.prompt.columns.get(name) for rollout in rollouts]
        for name in names
        if name not in GIVEN
    }
    arguments["prompts"] = [
        [dict(turn) for turn in rollout.prompt.messages]
        if rollout.prompt.is_conversational
        else rollout.prompt.text
        for rollout in rollouts
    ]
    arguments["completions"] = [
        [{"role": "assistant", "content": text}] if rollout.prompt.is_conversational else text
        for rollout, text in zip(rollouts, texts, strict=True)
    ]
    arguments["completion_ids"] = [list(rollout.token_ids) for rollout in rollouts]
    arguments["finish_reasons"] = [rollout.finish_reason for rollout in rollouts]
    return arguments


def _failure(
    reward: NamedReward,
    arguments: Mapping[str, list[Any]],
    prompt_ids: Sequence[str],
    error: BaseException,
) -> TrainingError:
    """Return the error that names the prompt on which the function raises."""
    code = getattr(reward.function, "__code__", None)
    described = describe_error(error, code.co_filename if code else None)
    culprit = _culprit(reward, arguments, len(prompt_ids))
    if culprit is not None:
        return TrainingError(f"{reward.label} raised {described} for prompt {prompt_ids[culprit]}")
    distinct = list(dict.fromkeys(prompt_ids))
    shown = ", ".join(distinct[:5]) + (", ..." if distinct[5:] else "")
    return TrainingError(
        f"{reward.label} raised {described} in a call with {len(prompt_ids)} completions "
        f"of the prompts {shown}; no single one of them could be found to cause it"
    )


def _culprit(reward: NamedReward, arguments: Mapping[str, list[Any]], count: int) -> int | None:
    """Return a completion on which the function raises when called with it alone.

    Found by halving: about two further calls of all completions, at most as long as one call may take.
    None where neither half raises: the function fails on the batch as a whole, or only sometimes.
    """
    deadline = time.monotonic() + reward.timeout_seconds
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        if _raises(reward, arguments, low, middle):
            high = middle
        elif time.monotonic() < deadline and _raises(reward, arguments, middle, high):
            low = middle
        else:
            return None
        if time.monotonic() >= deadline:
            return None
    return low


def _raises(reward: NamedReward, arguments: Mapping[str, list[Any]], low: int, high: int) -> bool:
    part = {name: values[low:high] for name, values in arguments.items()}
    try:
        Call(reward, part).result()
    except TrainingError:
        return False  # a time-out says nothing about the error looked for
    except (Exception, SystemExit):  # any error of the function counts
        return True
    return False
