"""Pairs of completions from the shapes the field already uses.

| columns | hold |
|---|---|
| `prompt`, `chosen`, `rejected` | a string or turns; then two strings, or an assistant turn each |
| `chosen`, `rejected` | two conversations that differ in the last assistant turn only: the rest is the prompt |
| `input`, `output_1`, `output_2`, `label` | LLMBar's: three strings, and 1 or 2, the better output |

Whole conversations win over a `prompt` column beside them, as `messages` do in `readers.py`, which says what
happens to ids, other columns and problems.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uniapl.data.chat import Chat
from uniapl.data.readers import (
    Example,
    columns_found,
    completion_text,
    load_examples,
    other_columns,
    prompt_value,
    row_id,
    split_turns,
    text_value,
    turns_value,
)
from uniapl.data.sources import Row
from uniapl.types import InputError, Message, PreferencePair

_CHOSEN_REJECTED = ("chosen", "rejected")
_LLMBAR = ("input", "output_1", "output_2", "label")

_Shape = tuple[str | tuple[Message, ...], str, str]
"""Prompt, chosen, rejected."""


def load_pairs(
    source: str | Path, chat: Chat | None, *, max_prompt_tokens: int | None = None
) -> list[PreferencePair]:
    """Read pairs; sources, arguments and errors as in `load_prompts`."""
    loaded = load_examples(source, chat, _pair_of, max_prompt_tokens)
    encode = chat.encode_completion if chat else lambda _: ()
    return [
        PreferencePair(prompt, chosen, rejected, encode(chosen), encode(rejected))
        for prompt, (chosen, rejected) in loaded
    ]


def _pair_of(row: Row) -> Example[tuple[str, str]]:
    values = row.values
    given = {name for name, value in values.items() if value is not None}
    if given.issuperset(_CHOSEN_REJECTED):
        is_whole = all(_is_conversation(values[name]) for name in _CHOSEN_REJECTED)
        prompt, chosen, rejected = _conversations(values) if is_whole else _completions(values)
        consumed = {*_CHOSEN_REJECTED, *(() if is_whole else ("prompt",))}
    elif given.issuperset(_LLMBAR):
        prompt, chosen, rejected = _labelled(values)
        consumed = set(_LLMBAR)
    else:
        wanted = _LLMBAR if "output_1" in given else _CHOSEN_REJECTED
        raise InputError(
            "no columns `chosen` and `rejected`, nor `input`, `output_1`, `output_2` and `label`"
            f"{columns_found(values, tuple(n for n in wanted if n not in given))}"
        )
    if chosen == rejected:
        raise InputError("the two completions are identical: there is nothing to prefer")
    return Example(row_id(row), prompt, (chosen, rejected), other_columns(values, consumed))


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 1


def _completions(values: Mapping[str, Any]) -> _Shape:
    if values.get("prompt") is None:
        raise InputError(
            "no column `prompt`, and `chosen` and `rejected` are not both conversations that hold it"
            f"{columns_found(values, ('prompt',))}"
        )
    chosen, rejected = (completion_text(values[name], name) for name in _CHOSEN_REJECTED)
    return prompt_value(values["prompt"]), chosen, rejected


def _conversations(values: Mapping[str, Any]) -> _Shape:
    (prompt, chosen), (other_prompt, rejected) = (
        split_turns(turns_value(values[name], name), needs_completion=True, column=name)
        for name in _CHOSEN_REJECTED
    )
    if prompt != other_prompt:
        raise InputError(
            "`chosen` and `rejected` differ before the last assistant turn: a pair has one prompt"
        )
    assert chosen is not None
    assert rejected is not None
    return prompt, chosen, rejected


def _labelled(values: Mapping[str, Any]) -> _Shape:
    for name in _LLMBAR[:3]:
        if not isinstance(values[name], str):
            raise InputError(f"`{name}` must be a string, got {type(values[name]).__name__}")
    prompt, *outputs = (text_value(values[name], f"`{name}`") for name in _LLMBAR[:3])
    label = values["label"]
    if isinstance(label, bool) or label not in (1, 2):
        raise InputError(f"`label` must be 1 or 2, the better output, got {label!r:.60}")
    chosen = int(label) - 1
    return prompt, outputs[chosen], outputs[1 - chosen]
