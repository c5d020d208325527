"""A reward model's score as a reward."""

from collections.abc import Callable, Sequence
from typing import Any

from uniapl.rewards.instructions import completion_text

Scores = Callable[[Sequence[Any], Sequence[str]], list[float]]
"""Prompts (strings or turns) and completions to scores."""


def model_reward(scores: Scores) -> Callable[..., list[float]]:
    """Return the reward function that gives each completion the score of a reward model."""

    def model(prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
        return scores(prompts, [completion_text(completion) for completion in completions])

    return model
