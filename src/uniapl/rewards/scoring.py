"""Rollouts in, rewards out: `rewards = score(rollouts, reward_functions)` of a training step.

A reward that fails stops the run: it is called once, never again to find the cause, and nothing is ever replaced by 0.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from uniapl.distributed import ALONE, Ranks
from uniapl.errors import TrainingError
from uniapl.rewards.build import GIVEN, select_arguments
from uniapl.rewards.calls import AsyncCall, NamedReward, call_plain
from uniapl.rewards.context import CONTEXT, Log, TrainerState
from uniapl.rewards.functions import describe_error
from uniapl.rewards.time_limit import OutOfTime
from uniapl.rewards.values import checked_values
from uniapl.types import Reward, Rollout


def score(
    rollouts: Sequence[Rollout],
    rewards: Sequence[NamedReward],
    columns: Sequence[str] = (),
    *,
    trainer_state: TrainerState | None = None,
    logged: dict[str, float] | None = None,
    ranks: Ranks = ALONE,
    group_size: int = 1,
) -> list[Reward]:
    """Return what each rollout earned, in order.

    What a policy thinks before it answers is no part of the completions that a function receives, unless it
    reads thoughts. Every function is called once with all rollouts (twice where conversational and plain prompts are
    mixed). Besides TRL's arguments and the columns of the data, with None where a row lacks one, functions can
    take `finish_reasons`. Asynchronous functions run at the same time, and while the others run one after the other.

    Args:
        rollouts: What is scored.
        rewards: The functions.
        columns: Columns the functions get even if no row of this batch has them (`column_names`).
        trainer_state: What functions receive under this name; None outside a run.
        logged: Receives what functions log with `log_metric`: the mean by `<reward>/<name>`.
        ranks: With several, each calls the functions once with its share of the groups, and all hear of an error.
        group_size: Siblings, adjacent in `rollouts`, that are given to the same call.

    Raises:
        TrainingError: A function raised, took too long, or did not return a finite number or None for
            each rollout; two functions log the same column; or the weighted sum is not finite.
        InputError: A function needs a column that is not there.
    """
    own = [i for i in range(len(rollouts)) if i // group_size % ranks.size == ranks.rank]
    parts = ranks.share(
        lambda: _score_own([rollouts[i] for i in own], rewards, columns, trainer_state), "rewards"
    )
    if logged is not None:
        metrics: defaultdict[str, list[float]] = defaultdict(list)
        for _, found in parts:
            for name, numbers in found.items():
                metrics[name] += numbers
        logged |= {name: sum(numbers) / len(numbers) for name, numbers in metrics.items()}
    queues = [iter(scored) for scored, _ in parts]
    return [next(queues[i // group_size % ranks.size]) for i in range(len(rollouts))]


def _score_own(
    rollouts: Sequence[Rollout],
    rewards: Sequence[NamedReward],
    columns: Sequence[str],
    trainer_state: TrainerState | None,
) -> tuple[list[Reward], dict[str, list[float]]]:
    """Score what this process is given; return what was earned, and every number that functions logged by name."""
    breakdowns: list[dict[str, float | None]] = [{} for _ in rollouts]
    extras: list[dict[str, Any]] = [{} for _ in rollouts]
    metrics: defaultdict[str, list[float]] = defaultdict(list)
    for is_conversational in (False, True):
        chosen = [
            index
            for index, rollout in enumerate(rollouts)
            if rollout.prompt.is_conversational is is_conversational
        ]
        if not chosen:
            continue
        part = [rollouts[index] for index in chosen]
        arguments = {whole: _arguments(part, columns, whole) for whole in (False, True)}
        prompt_ids = [rollouts[index].prompt.id for index in chosen]
        for reward, values, log in _score_alike(rewards, arguments, prompt_ids, trainer_state):
            for index, value in zip(chosen, values, strict=True):
                breakdowns[index][reward.name] = value
            _add_columns(reward, log, [extras[index] for index in chosen])
            for name, numbers in log.metrics().items():
                metrics[f"{reward.name}/{name}"] += numbers
    weights = {reward.name: reward.weight for reward in rewards}
    scored = [
        Reward(_total(breakdown, weights, rollout.prompt.id), breakdown, extra)
        for rollout, breakdown, extra in zip(rollouts, breakdowns, extras, strict=True)
    ]
    return scored, dict(metrics)


def _add_columns(reward: NamedReward, log: Log, extras: Sequence[dict[str, Any]]) -> None:
    for column, values in log.columns(reward.label, len(extras)).items():
        for extra, value in zip(extras, values, strict=True):
            if column in extra:
                raise TrainingError(
                    f"{reward.label} logs the column {column}, which another function logs too; rename one"
                )
            extra[column] = value


def _total(
    breakdown: Mapping[str, float | None], weights: Mapping[str, float], prompt_id: str
) -> float | None:
    opinions = [weights[name] * value for name, value in breakdown.items() if value is not None]
    if not opinions:
        return None
    total = sum(opinions)
    if not math.isfinite(total):
        raise TrainingError(
            f"the weighted sum of the rewards is {total} for prompt {prompt_id}; scale them or their weights"
        )
    return total


def _score_alike(
    rewards: Sequence[NamedReward],
    available: Mapping[bool, Mapping[str, list[Any]]],
    prompt_ids: Sequence[str],
    trainer_state: TrainerState | None,
) -> list[tuple[NamedReward, list[float | None], Log]]:
    """Call each function once, with rollouts that are all conversational or all not.

    Args:
        rewards: The functions.
        available: What they can take, for those that read thoughts and those that do not.
        prompt_ids: Per rollout.
        trainer_state: As in `score`.
    """
    logs = {reward.name: Log() for reward in rewards}
    arguments: dict[str, dict[str, Any]] = {}
    for reward in rewards:
        log = logs[reward.name]
        given = (trainer_state, log.log_extra, log.log_metric)
        context: dict[str, Any] = dict(zip(CONTEXT, given, strict=True))
        own = available[reward.reads_thoughts]
        arguments[reward.name] = select_arguments(reward, own, context)
    running = {
        reward.name: AsyncCall(reward, arguments[reward.name])
        for reward in rewards
        if reward.is_async
    }
    values: dict[str, list[float | None]] = {}
    try:
        # plain functions first: the asynchronous ones run meanwhile
        for reward in sorted(rewards, key=lambda reward: reward.is_async):
            try:
                if reward.is_async:
                    result = running[reward.name].result()
                else:
                    result = call_plain(reward, arguments[reward.name])
            except (TrainingError, KeyboardInterrupt, OutOfTime):
                raise
            except BaseException as error:  # a user's function raises anything: CancelledError, say
                raise _failure(reward, prompt_ids, error) from error
            values[reward.name] = checked_values(reward.label, result, prompt_ids)
    finally:
        for call in running.values():
            call.cancel()
    return [(reward, values[reward.name], logs[reward.name]) for reward in rewards]


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


def _failure(reward: NamedReward, prompt_ids: Sequence[str], error: BaseException) -> TrainingError:
    """Return the error of a function that raised.

    It names the prompt only where there is but one: to search for it, the function would have to be called again,
    and a judge behind an API is paid by the call.
    """
    code = getattr(reward.function, "__code__", None)
    described = describe_error(error, code.co_filename if code else None)
    distinct = list(dict.fromkeys(prompt_ids))
    if len(distinct) == 1:
        return TrainingError(f"{reward.label} raised {described} for prompt {distinct[0]}")
    shown = ", ".join(distinct[:5]) + (", ..." if distinct[5:] else "")
    return TrainingError(
        f"{reward.label} raised {described} in a call with {len(prompt_ids)} completions "
        f"of the prompts {shown}"
    )
