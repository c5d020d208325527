"""From what the user configured to reward functions that fit the data."""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from uniapl.errors import InputError
from uniapl.rewards.calls import NamedReward
from uniapl.rewards.context import CONTEXT
from uniapl.rewards.functions import load_function
from uniapl.rewards.instructions import instruction_reward
from uniapl.types import Prompt

GIVEN = ("prompts", "completions", "completion_ids", "finish_reasons", *CONTEXT)
"""Arguments every reward function can have, whatever columns the data has."""

_OF_ROLLOUTS = ("completions", "completion_ids", "finish_reasons")
"""A function that takes none of these judges nothing that was sampled."""

_ATOMS = (str, int, float, bool, type(None))

_TAKEN_NAMES = ("mean", "std")
"""`reward/mean` and `reward/std` are metrics of the total."""


def build_reward(
    function: str | Callable[..., Any],
    *,
    name: str | None = None,
    weight: float = 1.0,
    all_or_nothing: float = 0.0,
    timeout_seconds: float = 60.0,
    arguments: Mapping[str, Any] | None = None,
    kind: Literal["reward", "metric"] = "reward",
    reads_thoughts: bool = False,
) -> NamedReward:
    """Return one reward.

    Args:
        function: `instructions`, `module:function`, `FILE.py:function`, or a function.
        name: Default: the function's own.
        weight: Factor in the total.
        all_or_nothing: Only for `instructions`; see `instruction_reward`.
        timeout_seconds: Of one call.
        arguments: Passed to the function by name in every call; they go before columns of the same name.
        kind: `metric` for a function that evaluation uses; it changes messages only.
        reads_thoughts: Give it whole completions, thoughts included.

    Raises:
        InputError: the function cannot be loaded, cannot be given completions by name, or an argument does not
            fit it.
    """
    if function == "instructions":
        function = instruction_reward(all_or_nothing)
    elif all_or_nothing:
        raise InputError(f"reward {function}: all_or_nothing is only for `instructions`")
    elif isinstance(function, str):
        function = load_function(function)
    assert not isinstance(function, str)
    name = name or str(getattr(function, "__name__", type(function).__name__))
    if kind == "reward" and name in _TAKEN_NAMES:
        raise InputError(f"a reward cannot be named {name}: reward/{name} is a metric of the total")
    if "/" in name:
        raise InputError(f"a {kind} cannot be named {name}: a / separates it from what it logs")
    reward = NamedReward(
        function, name, weight, timeout_seconds, kind, reads_thoughts, arguments or {}
    )
    _check_signature(reward)
    _check_arguments(reward)
    return reward


def _check_signature(reward: NamedReward) -> None:
    """Refuse a function to which nothing can be handed by name.

    Raises:
        InputError: It takes an argument by position only, or nothing of what was sampled.
    """
    nameless = {inspect.Parameter.POSITIONAL_ONLY: "/", inspect.Parameter.VAR_POSITIONAL: "*"}
    for one in _signature(reward) or ():
        is_needed = one.kind is one.POSITIONAL_ONLY and one.default is one.empty
        if one.kind in nameless and (is_needed or one.name in (*GIVEN, *reward.arguments)):
            raise InputError(
                f"{reward.label} takes `{one.name}` by position only, and arguments are given by name; "
                f"take the {nameless[one.kind]} out of its signature"
            )
    accepted, _ = _parameters(reward)
    if accepted is not None and accepted.isdisjoint(_OF_ROLLOUTS):
        raise InputError(f"{reward.label} does not take `completions`; add it to its arguments")


def _check_arguments(reward: NamedReward) -> None:
    accepted, _ = _parameters(reward)
    for name in reward.arguments:
        if name in GIVEN:
            raise InputError(
                f"{reward.label}: `{name}` is given by the run; take it out of arguments"
            )
        if accepted is not None and name not in accepted:
            own = sorted(accepted.difference(GIVEN))
            raise InputError(
                f"{reward.label} takes no argument `{name}` (it takes: {', '.join(own) or 'none'})"
            )


def build_rewards(specs: Iterable[Mapping[str, Any]]) -> list[NamedReward]:
    """Return the rewards of a run from the keyword arguments of `build_reward`.

    Raises:
        InputError: as `build_reward`; or two rewards have the same name.
    """
    rewards = [build_reward(**spec) for spec in specs]
    check_names(rewards)
    return rewards


def check_names(rewards: Sequence[NamedReward]) -> None:
    """Refuse two rewards of one name, of which one would overwrite the other's metrics.

    Raises:
        InputError: There are two.
    """
    names = [reward.name for reward in rewards]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"{names.count(name)} rewards are named {name}; give each its own `name`"
            )


def column_names(prompts: Iterable[Prompt]) -> tuple[str, ...]:
    """Return the columns that any of the prompts has, sorted."""
    return tuple(sorted({name for prompt in prompts for name in prompt.columns}))


def check_columns(rewards: Sequence[NamedReward], columns: Sequence[str]) -> None:
    """Check, before a run starts, that the data has what the reward functions ask for.

    Raises:
        InputError: a function needs a column that no row has, or a column has an argument's name.
    """
    for column in columns:
        if column in GIVEN:
            raise InputError(
                f"the data's column `{column}` has the name of an argument of reward functions; rename it"
            )
    for reward in rewards:
        for needed in _parameters(reward)[1]:
            if needed not in (*GIVEN, *columns, *reward.arguments):
                raise InputError(
                    f"{reward.label} needs `{needed}`, which is no column of the data "
                    f"(columns: {', '.join(columns) or 'none'}; always given: {', '.join(GIVEN)})"
                )


def select_arguments(
    reward: NamedReward, available: Mapping[str, list[Any]], context: Mapping[str, Any]
) -> dict[str, Any]:
    """Return those of the arguments that the function takes; all if it has `**columns`.

    Containers are copies, so that a function which edits its arguments changes neither the data nor what the next
    function is given.

    Raises:
        InputError: the function needs one that is not available.
    """
    accepted, _ = _parameters(reward)
    check_columns([reward], [name for name in available if name not in GIVEN])
    given = {**available, **context, **reward.arguments}
    return {
        name: value if name in CONTEXT else _own(value)
        for name, value in given.items()
        if accepted is None or name in accepted
    }


def _own(value: Any) -> Any:
    """Return a copy of containers and arrays, however deep; text, numbers and live objects (a client) are shared."""
    if type(value) in (list, tuple, set):
        return type(value)(one if type(one) in _ATOMS else _own(one) for one in value)
    if type(value) is dict:
        return {name: _own(one) for name, one in value.items()}
    return copy.deepcopy(value) if hasattr(type(value), "__array__") else value


def _parameters(reward: NamedReward) -> tuple[set[str] | None, list[str]]:
    """Return the names a function accepts (None: any) and those without a default."""
    parameters = _signature(reward)
    if parameters is None:
        return None, []
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [parameter for parameter in parameters if parameter.kind in kinds]
    needed = [one.name for one in named if one.default is inspect.Parameter.empty]
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        return None, needed
    return {one.name for one in named}, needed


def _signature(reward: NamedReward) -> list[inspect.Parameter] | None:
    """Return a function's parameters; None for one written in C that does not tell."""
    try:
        return list(inspect.signature(reward.function).parameters.values())
    except ValueError:
        return None
