"""Pairs of completions from the shapes the field already uses.

| columns | hold |
|---|---|
| `chosen`, `rejected` beside the prompt of any shape of `shapes.py` | two texts, or an assistant turn each |
| `chosen`, `rejected` | two conversations that differ in the last assistant turn only: the rest is the prompt |
| `input`, `output_1`, `output_2`, `label` | LLMBar's: three texts, and 1 or 2, the better output |

Whole conversations win over a prompt beside them, as `messages` do over `prompt`. What `readers.py` says of ids,
other columns and problems holds here too.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from uniapl.data.chat import Chat
from uniapl.data.readers import Example, Reading, load_examples, other_columns
from uniapl.data.shapes import COMPLETIONS, PAIR, PROMPTS, Values, columns_found, read_row
from uniapl.data.turns import completion_value, split_turns, text_value, turns_value, with_system
from uniapl.errors import InputError
from uniapl.types import Message, PreferencePair

_LLMBAR = ("input", "output_1", "output_2", "label")

_Pair = tuple[str | tuple[Message, ...], str, str]
"""Prompt, chosen, rejected."""


def load_pairs(
    source: str | Path,
    chat: Chat | None,
    *,
    columns: Mapping[str, str] | None = None,
    max_prompt_tokens: int | None = None,
) -> list[PreferencePair]:
    """Read pairs; sources, arguments and errors as in `load_prompts`."""
    reading = Reading(
        dict(columns or {}), may_lack=COMPLETIONS, max_prompt_tokens=max_prompt_tokens
    )
    loaded = load_examples(source, chat, _pair_of, reading)
    encode = chat.encode_completion if chat else lambda _: ()
    return [
        PreferencePair(prompt, chosen, rejected, encode(chosen), encode(rejected))
        for prompt, (chosen, rejected) in loaded
    ]


def _pair_of(row: Values, named: Collection[str]) -> Example[tuple[str, str]]:
    given = {name for name, value in row.items() if value is not None}
    consumed: Collection[str]
    if given.issuperset(PAIR) and all(_is_conversation(row[name]) for name in PAIR):
        prompt, chosen, rejected = _conversations(row)
        consumed = (*PAIR, "system")
    elif given.issuperset(PAIR):
        if given.isdisjoint(PROMPTS):
            raise InputError(
                "no prompt beside `chosen` and `rejected`, which are not both conversations that hold it"
                f"{columns_found(row, PROMPTS)}"
            )
        meaning = read_row(_without_completions(row), needs_completion=False, named=named)
        if meaning.completion is not None:
            raise InputError("the turns beside `chosen` and `rejected` must end in a user turn")
        prompt, (chosen, rejected) = meaning.prompt, (completion_value(row[n], n) for n in PAIR)
        consumed = meaning.consumed | set(PAIR)
    elif given.issuperset(_LLMBAR):
        prompt, chosen, rejected = _labelled(row)
        consumed = _LLMBAR
    else:
        wanted = _LLMBAR if "output_1" in given else PAIR
        raise InputError(
            "no columns `chosen` and `rejected`, nor `input`, `output_1`, `output_2` and `label`"
            f"{columns_found(row, [n for n in wanted if n not in given])}"
        )
    if chosen == rejected:
        raise InputError("the two completions are identical: there is nothing to prefer")
    return Example(prompt, (chosen, rejected), other_columns(row, consumed))


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 1


def _without_completions(row: Values) -> Values:
    return {name: value for name, value in row.items() if name not in COMPLETIONS}


def _conversations(row: Values) -> _Pair:
    (prompt, chosen), (other_prompt, rejected) = (
        split_turns(turns_value(row[name], name), needs_completion=True, column=name)
        for name in PAIR
    )
    if prompt != other_prompt:
        raise InputError(
            "`chosen` and `rejected` differ before the last assistant turn: a pair has one prompt"
        )
    assert chosen is not None
    assert rejected is not None
    return with_system(prompt, row.get("system")), chosen, rejected


def _labelled(row: Values) -> _Pair:
    prompt, *outputs = (text_value(row[name], f"`{name}`") for name in _LLMBAR[:3])
    label = row["label"]
    if isinstance(label, bool) or label not in (1, 2):
        raise InputError(f"`label` must be 1 or 2, the better output, got {label!r:.60}")
    chosen = int(label) - 1
    return prompt, outputs[chosen], outputs[1 - chosen]
