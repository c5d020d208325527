"""The reward for following checkable instructions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from uniapl.instructions import strict


def instruction_reward(all_or_nothing: float = 0.0) -> Callable[..., list[float | None]]:
    """Return the reward function (1 - a)·(share of instructions followed) + a·[all of them followed].

    A row without instructions has None. A completion that is blank, or that the token limit cut off,
    earns 0: what it does follow, such as "no commas", it follows by saying little.

    Args:
        all_or_nothing: a, from 0 to 1.
    """

    def instructions(
        completions: Sequence[Any],
        instruction_id_list: Sequence[Sequence[str] | None] | None = None,
        kwargs: Sequence[Sequence[Mapping[str, Any]] | None] | None = None,
        finish_reasons: Sequence[str] | None = None,
        **_: Any,
    ) -> list[float | None]:
        count = len(completions)
        rows = zip(
            completions,
            instruction_id_list or [None] * count,
            kwargs or [None] * count,
            finish_reasons or ["stop"] * count,
            strict=True,
        )
        return [
            _follow_share(
                completion_text(completion), ids, kwargs_list or [], reason, all_or_nothing
            )
            if ids
            else None
            for completion, ids, kwargs_list, reason in rows
        ]

    return instructions


def _follow_share(
    text: str,
    ids: Sequence[str],
    kwargs_list: Sequence[Mapping[str, Any]],
    finish_reason: str,
    all_or_nothing: float,
) -> float:
    if finish_reason == "length" or not text.strip():
        return 0.0
    followed = strict(ids, kwargs_list, text)
    share = sum(followed) / len(followed)
    return (1 - all_or_nothing) * share + all_or_nothing * float(all(followed))


def completion_text(completion: Any) -> str:
    """Return a completion's text: conversational data gives a list of one assistant turn."""
    return completion if isinstance(completion, str) else completion[-1]["content"]
