"""What a row says: the shapes that the field uses, recognised by their columns alone.

`SHAPES` is the whole list. Each shape has one function, from the row's columns to prompt and completion;
`pairs.py` adds chosen and rejected completions to the same prompts. docs/data.md shows an example of each.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from uniapl.data.turns import (
    completion_value,
    is_blank,
    prompt_value,
    split_turns,
    text_value,
    turns_value,
    with_system,
)
from uniapl.errors import InputError
from uniapl.types import Message

Values = Mapping[str, Any]
"""The columns of a row."""

Read = tuple[str | tuple[Message, ...], str | None]
"""Prompt, as text or turns, and the expert's completion, None if the row has none."""


def read_messages(row: Values, needs_completion: bool) -> Read:
    """OpenAI's: turns, of which an assistant's at the end is the completion."""
    turns = turns_value(row["messages"], "messages")
    return split_turns(turns, needs_completion, "messages")


def read_sharegpt(row: Values, needs_completion: bool) -> Read:
    """ShareGPT's: turns as in `messages`, in the column `conversations`."""
    turns = turns_value(row["conversations"], "conversations")
    return split_turns(turns, needs_completion, "conversations")


def read_prompt_completion(row: Values, _: bool) -> Read:
    """Two columns, each text or turns; this project's own and TRL's."""
    return prompt_value(row["prompt"], "prompt"), _completion(row, "completion")


def read_prompt_response(row: Values, _: bool) -> Read:
    """The same with a `response`."""
    return prompt_value(row["prompt"], "prompt"), _completion(row, "response")


def read_alpaca(row: Values, _: bool) -> Read:
    """Alpaca's: what to do, the text to do it with (below it, after a blank line), and the answer."""
    prompt = text_value(row["instruction"], "`instruction`")
    if not is_blank(row.get("input")):
        prompt = f"{prompt}\n\n{text_value(row['input'], '`input`')}"
    return _after_history(row, prompt), _completion(row, "output")


def read_query_response(row: Values, _: bool) -> Read:
    """ms-swift's: a query, and a response."""
    return _after_history(row, prompt_value(row["query"], "query")), _completion(row, "response")


def read_question_answer(row: Values, _: bool) -> Read:
    """A question, and its answer."""
    return prompt_value(row["question"], "question"), _completion(row, "answer")


def read_question_response(row: Values, _: bool) -> Read:
    """A question, and a response."""
    return prompt_value(row["question"], "question"), _completion(row, "response")


@dataclass(frozen=True, slots=True)
class Shape:
    """Columns that belong together."""

    prompt: str
    """The column that holds the prompt."""
    completion: str | None
    """The column that holds the completion; None where it is the last turn of the prompt's column."""
    read: Callable[[Values, bool], Read]
    """From a row with these columns to its meaning; the flag says whether there must be a completion."""
    beside: tuple[str, ...] = ()
    """Columns that it reads too, where a row has them."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns without which a row is not of this shape."""
        return (self.prompt,) if self.completion is None else (self.prompt, self.completion)

    def takes(self, names: Collection[str]) -> bool:
        """Return whether each of these columns means something in a row of this shape."""
        return not names or {*self.columns, *self.beside, *BESIDE_ALL}.issuperset(names)


SHAPES = (
    Shape("messages", None, read_messages),
    Shape("conversations", None, read_sharegpt),
    Shape("prompt", "completion", read_prompt_completion),
    Shape("prompt", "response", read_prompt_response),
    Shape("instruction", "output", read_alpaca, beside=("input", "history")),
    Shape("query", "response", read_query_response, beside=("history",)),
    Shape("question", "answer", read_question_answer),
    Shape("question", "response", read_question_response),
)

PROMPTS = tuple(dict.fromkeys(shape.prompt for shape in SHAPES))
COMPLETIONS = tuple(dict.fromkeys(shape.completion for shape in SHAPES if shape.completion))
"""The columns that hold prompts, and those that hold completions."""

PAIR = ("chosen", "rejected")
BESIDE_ALL = ("system", *PAIR, "key", "instruction_id_list", "kwargs")
"""Columns that mean the same beside any shape."""

_OF_SHAPES = [name for shape in SHAPES for name in (*shape.columns, *shape.beside)]

NAMES = tuple(dict.fromkeys([*_OF_SHAPES, *BESIDE_ALL]))
"""Every column that means something here; `data.columns` says how the user calls it."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a row says."""

    prompt: str | tuple[Message, ...]
    completion: str | None
    consumed: frozenset[str]
    """The columns that said it."""


_MEDIA = ("images", "audios", "videos")
"""Columns in which data for models that see and hear keep what the text stands beside."""


def read_row(row: Values, needs_completion: bool, named: Collection[str] = ()) -> Meaning:
    """Return what a row says.

    Args:
        row: Its columns; null means that the row does not have the column.
        needs_completion: A row without an expert's completion is wrong.
        named: Columns that the user named; a shape without one of them is not considered.

    Raises:
        InputError: The columns are of no shape, of two, or hold what the shape does not take.
    """
    if media := next((name for name in _MEDIA if row.get(name)), None):
        raise InputError(f"the row has `{media}`; only text is supported")
    shape = recognise(row, needs_completion, named)
    prompt, completion = shape.read(row, needs_completion)
    consumed = frozenset((*shape.columns, *shape.beside, "system"))
    return Meaning(with_system(prompt, row.get("system")), completion, consumed)


def recognise(row: Values, needs_completion: bool, named: Collection[str] = ()) -> Shape:
    """Return the one shape whose columns a row has; arguments and errors as in `read_row`.

    Where no completion is needed, `prompt` alone is a shape, and in a row that has no other so is any column
    that holds prompts. `messages` and `conversations` win over a lone `prompt`: public data sets repeat the first
    question there.
    """
    given = {name for name, value in row.items() if value is not None}
    possible = [s for s in SHAPES if s.takes(named)]
    fitting = [s for s in possible if given.issuperset(s.columns)]
    if not needs_completion:
        has_turns = any(s.completion is None for s in fitting)
        prompts = {s.prompt for s in fitting}
        alone = {s.prompt: s for s in reversed(possible) if s.prompt in given - prompts}
        if "prompt" in alone and not has_turns:
            fitting.append(alone["prompt"])
        if not fitting:
            fitting = list(alone.values())
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise InputError(_no_shape(row, possible, given))
    first, second = ([name for name in s.columns if name in given] for s in fitting[:2])
    example = ", ".join(f"{name}: {name}" for name in first)
    raise InputError(
        f"two shapes fit, `{'` with `'.join(first)}` and `{'` with `'.join(second)}`: remove one, or say "
        f"which in `columns`, such as {{{example}}}"
    )


def columns_found(row: Values, wanted: Collection[str]) -> str:
    """Return the end of a message about missing columns: a guess, and what the row has."""
    found = [name for name, value in row.items() if value is not None]
    for name in wanted:
        close = get_close_matches(name, found, n=1)
        if close:
            return f"; did you mean `{close[0]}`? (the row has: {', '.join(found)})"
    return f" (the row has: {', '.join(found) or 'nothing'})"


def _no_shape(row: Values, possible: list[Shape], given: set[str]) -> str:
    halves = [s for s in possible if s.prompt in given]
    wanted = list(
        dict.fromkeys(s.completion for s in halves if s.completion)
        if halves
        else dict.fromkeys(s.prompt for s in possible)
    )
    named = " or ".join(filter(None, (", ".join(f"`{n}`" for n in wanted[:-1]), f"`{wanted[-1]}`")))
    return f"no column {named}{columns_found(row, wanted)}"


def _completion(row: Values, column: str) -> str | None:
    value = row.get(column)
    return None if value is None else completion_value(value, column)


def _after_history(row: Values, prompt: str | tuple[Message, ...]) -> str | tuple[Message, ...]:
    """Put the earlier rounds of a conversation, a list of [question, answer], before a prompt."""
    history = row.get("history")
    if is_blank(history):
        return prompt
    turns: list[Message] = []
    for index, pair in enumerate(history if isinstance(history, list | tuple) else [history]):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InputError("`history` must be a list of [question, answer]")
        for role, text in zip(("user", "assistant"), pair, strict=True):
            turns.append({"role": role, "content": text_value(text, f"`history[{index}]`")})
    last = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
    return *turns, *last
