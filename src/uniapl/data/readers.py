"""Demonstrations and prompts out of rows of any shape that `shapes.py` knows, checked row by row.

`key` or `id` is the row's id, else its number is; `instruction_id_list` and `kwargs` are checkable instructions, as
in IFEval. Every column that is no part of the shape stays with its prompt, for reward functions and metrics. All
problems of a file are reported at once, each with file and line. `pairs.py` reads chosen and rejected completions
the same way.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from uniapl.data.chat import Chat
from uniapl.data.columns import check_columns, missing_columns, renamed
from uniapl.data.rows import Problems, Row, number_as_id, row_key
from uniapl.data.shapes import COMPLETIONS, PAIR, PROMPTS, Values, read_row
from uniapl.data.sources import read_rows
from uniapl.data.turns import text_value
from uniapl.errors import InputError
from uniapl.types import Demonstration, Message, Prompt

T = TypeVar("T")

RowCheck = Callable[[Mapping[str, Any]], None]
"""Raises InputError where a row's columns make no sense to the caller, such as an unknown instruction."""


def load_demonstrations(
    source: str | Path,
    chat: Chat,
    *,
    columns: Mapping[str, str] | None = None,
    id_prefix: str = "",
    max_prompt_tokens: int | None = None,
    validate_row: RowCheck | None = None,
) -> list[Demonstration]:
    """Read expert completions.

    Args:
        source: A JSONL, JSON, CSV or Parquet file, gzipped or not, or a hub id `owner/name[/subset][:split]`.
        columns: Names of `shapes.NAMES` → the file's names, where they are others.
        id_prefix: Put before every id, to tell the rows of several sources apart.
        max_prompt_tokens: A longer prompt is a problem; nothing is cut.
        validate_row: Called with the columns of each row.

    Raises:
        InputError: the source cannot be read, or rows are wrong: one line per problem.
    """
    reading = Reading(dict(columns or {}), PAIR, id_prefix, max_prompt_tokens, validate_row)
    loaded = load_examples(source, chat, _demonstration_of, reading)
    return [
        Demonstration(prompt, completion, chat.encode_completion(completion))
        for prompt, completion in loaded
        if completion is not None
    ]


def load_prompts(
    source: str | Path,
    chat: Chat | None,
    *,
    columns: Mapping[str, str] | None = None,
    id_prefix: str = "",
    max_prompt_tokens: int | None = None,
    validate_row: RowCheck | None = None,
    limit: int | None = None,
) -> list[Prompt]:
    """Read prompts, for training or evaluation; arguments and errors as in `load_demonstrations`.

    An expert's completion, if a row has one, is kept as text in `columns["completion"]`. `answer` also stays, as
    rewards that compare with it expect.

    Args:
        chat: None where no model reads the prompts: they then have no token ids.
        limit: Read only the first so many rows.
    """
    may_lack = (*PAIR, *COMPLETIONS)
    reading = Reading(
        dict(columns or {}), may_lack, id_prefix, max_prompt_tokens, validate_row, limit
    )
    return [prompt for prompt, _ in load_examples(source, chat, _prompt_of, reading)]


def expert_demonstration(prompt: Prompt, chat: Chat) -> Demonstration | None:
    """Return the demonstration a loaded prompt carries in its `completion` column, if it has one."""
    completion = prompt.columns.get("completion")
    if not isinstance(completion, str):
        return None
    return Demonstration(prompt, completion, chat.encode_completion(completion))


def every_turn(demonstrations: Sequence[Demonstration], chat: Chat) -> list[Demonstration]:
    """Return a demonstration for each assistant turn of the conversations, the earlier ones first.

    One example per turn, not one sequence with several trained spans: templates rewrite history (Qwen3's drops
    what was thought), so the whole conversation does not hold what the policy has before it at each turn.
    Earlier turns carry no columns: those are about the last one.

    Raises:
        InputError: a turn is blank.
    """
    turns: list[Demonstration] = []
    for demonstration in demonstrations:
        prompt = demonstration.prompt
        for place, turn in enumerate(prompt.messages):
            before = prompt.messages[:place]
            if turn["role"] != "assistant" or not any(m["role"] == "user" for m in before):
                continue
            text = text_value(
                turn["content"], f"prompt {prompt.id}: assistant turn messages[{place}]"
            )
            earlier = Prompt(f"{prompt.id}/{place}", before, chat.encode_prompt(before), True)
            turns.append(Demonstration(earlier, text, chat.encode_completion(text)))
        turns.append(demonstration)
    return turns


@dataclass(frozen=True, slots=True)
class Example(Generic[T]):
    """A row whose shape is understood."""

    prompt: str | tuple[Message, ...]
    answer: T
    """What the row holds besides the prompt."""
    columns: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """How a source is read; `load_demonstrations` says what the fields mean."""

    columns: Mapping[str, str]
    may_lack: Collection[str] = ()
    """Names in `columns` that are for other sources than this one, or that it may do without."""
    id_prefix: str = ""
    max_prompt_tokens: int | None = None
    validate_row: RowCheck | None = None
    limit: int | None = None


def load_examples(
    source: str | Path,
    chat: Chat | None,
    example_of: Callable[[Values, Collection[str]], Example[T]],
    reading: Reading,
) -> list[tuple[Prompt, T]]:
    """Read the rows of any shape, as prompt and answer; errors as in `load_demonstrations`.

    Args:
        source: As there.
        chat: As in `load_prompts`.
        example_of: Reads a row's shape from its columns and the names that the user gave; an InputError that it
            raises is a problem of the row.
        reading: The rest.
    """
    check_columns(reading.columns)
    named = [name for name in reading.columns if name not in reading.may_lack]
    problems = Problems()
    place_of_key: dict[str, str] = {}
    found: dict[str, None] = {}
    loaded: list[tuple[Prompt, T]] = []
    unnamed: list[tuple[int, int]] = []
    for row in _first(read_rows(source, problems), reading.limit):
        found |= dict.fromkeys(row.values)
        with problems.at(row.where):
            row = Row(row.number, row.where, renamed(row.values, reading.columns))
            example = example_of(row.values, named)
            key = row_key(row)
            if key in place_of_key:
                raise InputError(f"duplicate id {key}, already at {place_of_key[key]}")
            if key is not None:
                place_of_key[key] = row.where
            if reading.validate_row is not None:
                reading.validate_row(example.columns)
            is_conversational = not isinstance(example.prompt, str) or "system" in row.values
            prompt = _prompt(key or "", example, chat, is_conversational)
            _check_length(prompt, reading.max_prompt_tokens)
            if key is None:
                unnamed.append((len(loaded), row.number))
            loaded.append((prompt, example.answer))
    lacking = {n: c for n, c in reading.columns.items() if n in named}
    for line in missing_columns(lacking, found):
        raise InputError(f"{source}: {line}")
    problems.raise_any()
    for index, number in unnamed:
        prompt, answer = loaded[index]
        loaded[index] = (replace(prompt, id=number_as_id(number, place_of_key)), answer)
    if reading.id_prefix:
        loaded = [(replace(p, id=f"{reading.id_prefix}{p.id}"), a) for p, a in loaded]
    return loaded


def _first(rows: Iterator[Row], limit: int | None) -> Iterator[Row]:
    """Yield at most `limit` rows without asking for one more: a later line may be broken."""
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}")
    for count, row in enumerate(rows, start=1):
        yield row
        if count == limit:
            return


def _prompt(id_: str, example: Example[Any], chat: Chat | None, is_conversational: bool) -> Prompt:
    given = example.prompt
    if chat is None:
        turns = ({"role": "user", "content": given},) if isinstance(given, str) else given
        return Prompt(id_, turns, (), is_conversational, example.columns)
    ids = chat.encode_prompt(given)
    return Prompt(id_, chat.messages(given), ids, is_conversational, example.columns)


def _check_length(prompt: Prompt, limit: int | None) -> None:
    length = len(prompt.token_ids)
    if limit is not None and length > limit:
        raise InputError(f"the prompt has {length} tokens, more than max_prompt_tokens {limit}")


def _demonstration_of(row: Values, named: Collection[str]) -> Example[str | None]:
    meaning = read_row(row, needs_completion=True, named=named)
    return Example(meaning.prompt, meaning.completion, other_columns(row, meaning.consumed))


def _prompt_of(row: Values, named: Collection[str]) -> Example[str | None]:
    meaning = read_row(row, needs_completion=False, named=named)
    columns = other_columns(row, meaning.consumed - {"answer"})
    if meaning.completion is not None:
        columns["completion"] = meaning.completion
    return Example(meaning.prompt, meaning.completion, columns)


def other_columns(row: Values, consumed: Collection[str]) -> dict[str, Any]:
    """Return the columns that stay with the prompt; null in a column of some other shape says nothing."""
    columns = {
        name: value
        for name, value in row.items()
        if name not in consumed and not (value is None and name in (*PROMPTS, *COMPLETIONS))
    }
    _normalise_instructions(columns)
    return columns


def _normalise_instructions(columns: dict[str, Any]) -> None:
    """Check IFEval's two columns against each other; null kwargs, as tables fill them in, are dropped."""
    ids = columns.get("instruction_id_list")
    if ids is None:
        return
    if not isinstance(ids, list | tuple) or not all(isinstance(one, str) for one in ids):
        raise InputError("`instruction_id_list` must be a list of strings")
    kwargs_list = columns.get("kwargs")
    if not isinstance(kwargs_list, list | tuple):
        raise InputError("`instruction_id_list` needs `kwargs`, a list of one object for each")
    if not all(kwargs is None or isinstance(kwargs, Mapping) for kwargs in kwargs_list):
        raise InputError("`kwargs` must be a list of objects")
    if len(kwargs_list) != len(ids):
        raise InputError(f"{len(ids)} in `instruction_id_list` but {len(kwargs_list)} in `kwargs`")
    columns["instruction_id_list"] = list(ids)
    columns["kwargs"] = [
        {name: value for name, value in (kwargs or {}).items() if value is not None}
        for kwargs in kwargs_list
    ]
