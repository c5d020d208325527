"""Rewards given as Python functions: how they are called, and what the run folder's config says of them."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from uniapl.config import Config, load_config
from uniapl.errors import InputError
from uniapl.rewards import NamedReward, build_reward

LiveReward = str | Callable[..., Any] | NamedReward
"""`instructions` or `module:function`, a function with TRL's signature, or one with a name, a weight and a limit."""


def read_rewards(config: Config, rewards: Sequence[LiveReward]) -> tuple[Config, list[NamedReward]]:
    """Return the config with these rewards in the place of its own, and the rewards.

    A function is written `module:name` there, so that a resumed run knows it by name; the run folder's config trains
    again by itself only where that can be imported.

    Raises:
        InputError: One of them is no reward, or `model`, which needs a path and so the config.
    """
    named = [_named(reward, f"rewards.{index}") for index, reward in enumerate(rewards)]
    entries = [_entry(reward, given) for reward, given in zip(named, rewards, strict=True)]
    chosen = config.model_dump(mode="json", exclude_unset=True)
    return load_config({**chosen, "rewards": entries}), named


def _named(reward: LiveReward, place: str) -> NamedReward:
    if isinstance(reward, NamedReward):
        return reward
    if reward == "model":
        raise InputError(f"{place}: a reward model needs a path; name it in the config's rewards")
    if not isinstance(reward, str) and not callable(reward):
        raise InputError(f"{place}: must be a function, got {type(reward).__name__}")
    return build_reward(reward, name=None if isinstance(reward, str) else _name(reward))


def _entry(reward: NamedReward, given: LiveReward) -> dict[str, Any]:
    return {
        "function": given if isinstance(given, str) else _address(reward.function),
        "name": reward.name,
        "weight": reward.weight,
        "timeout_seconds": reward.timeout_seconds,
        "reads_thoughts": reward.reads_thoughts,
    }


def _address(function: Callable[..., Any]) -> str:
    """Return `module:name`, of words alone: `<lambda>` is `lambda`."""
    module = getattr(function, "__module__", None) or "__main__"
    return f"{module}:{_name(function)}"


def _name(function: Callable[..., Any]) -> str:
    return re.sub(r"\W", "", getattr(function, "__name__", type(function).__name__))
