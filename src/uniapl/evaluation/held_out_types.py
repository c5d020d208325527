"""Instructions followed: of the types that `uniapl prompts --held-out` keeps out of training, and of the others.

Both are metrics for `evaluation.metrics`: of a prompt's instructions of these types the share that is followed
strictly, and no opinion where it has none.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from uniapl.instructions import strict
from uniapl.instructions.phrasings import HELD_OUT_TYPES
from uniapl.rewards.instructions import completion_text


def held_out_types_acc(
    completions: Sequence[Any],
    *,
    instruction_id_list: Sequence[Sequence[str] | None],
    kwargs: Sequence[Sequence[Mapping[str, Any]] | None],
    **columns: Sequence[Any],
) -> list[float | None]:
    """Share of a prompt's instructions of held-out types that are followed, mean over prompts that have one."""
    return _shares(completions, instruction_id_list, kwargs, HELD_OUT_TYPES.__contains__)


def trained_types_acc(
    completions: Sequence[Any],
    *,
    instruction_id_list: Sequence[Sequence[str] | None],
    kwargs: Sequence[Sequence[Mapping[str, Any]] | None],
    **columns: Sequence[Any],
) -> list[float | None]:
    """Share of a prompt's instructions of the other types that are followed, mean over prompts that have one."""
    return _shares(
        completions, instruction_id_list, kwargs, lambda name: name not in HELD_OUT_TYPES
    )


def _shares(
    completions: Sequence[Any],
    instruction_id_list: Sequence[Sequence[str] | None],
    kwargs: Sequence[Sequence[Mapping[str, Any]] | None],
    counts: Callable[[str], bool],
) -> list[float | None]:
    """Return one share per completion, None where no instruction counts."""
    shares: list[float | None] = []
    for said, ids, values in zip(completions, instruction_id_list, kwargs, strict=True):
        followed: list[bool] = []
        if ids and values is not None:
            verdicts = strict(ids, values, completion_text(said))
            followed = [v for name, v in zip(ids, verdicts, strict=True) if counts(name)]
        shares.append(sum(followed) / len(followed) if followed else None)
    return shares
