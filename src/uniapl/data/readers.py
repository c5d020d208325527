"""Demonstrations and prompts from the shapes the field already uses, checked row by row.

| column | holds |
|---|---|
| `prompt` | a string, or turns that end in the user's |
| `completion` | the expert's: a string, or one assistant turn |
| `messages` | turns; an assistant turn at the end is the completion, the rest the prompt |
| `key` or `id` | the row's id, else its line number is |
| `instruction_id_list`, `kwargs` | checkable instructions, as in IFEval |

Every other column stays with its prompt, for reward functions and metrics. All problems of a file are
reported at once, each with file and line. `pairs.py` reads chosen and rejected completions the same way.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Generic, TypeVar

from uniapl.data.chat import Chat
from uniapl.data.sources import Problems, Row, read_rows
from uniapl.types import Demonstration, InputError, Message, Prompt

T = TypeVar("T")

RowCheck = Callable[[Mapping[str, Any]], None]
"""Raises InputError where a row's columns make no sense to the caller, such as an unknown instruction."""


def load_demonstrations(
    source: str | Path,
    chat: Chat,
    *,
    max_prompt_tokens: int | None = None,
    validate_row: RowCheck | None = None,
) -> list[Demonstration]:
    """Read expert completions.

    Args:
        source: A `.jsonl`, `.json` (both also `.gz`) or `.parquet` file, or a hub id `owner/name[:split]`.
        max_prompt_tokens: A longer prompt is a problem; nothing is cut.
        validate_row: Called with the columns of each row.

    Raises:
        InputError: the source cannot be read, or rows are wrong: one line per problem.
    """
    loaded = load_examples(source, chat, _demonstration_of, max_prompt_tokens, validate_row)
    return [
        Demonstration(prompt, completion, chat.encode_completion(completion))
        for prompt, completion in loaded
        if completion is not None
    ]


def load_prompts(
    source: str | Path,
    chat: Chat | None,
    *,
    max_prompt_tokens: int | None = None,
    validate_row: RowCheck | None = None,
    limit: int | None = None,
) -> list[Prompt]:
    """Read prompts, for training or evaluation; arguments and errors as in `load_demonstrations`.

    An expert's completion, if a row has one, is kept as text in `columns["completion"]`.

    Args:
        chat: None where no model reads the prompts: they then have no token ids.
        limit: Read only the first so many rows.
    """
    loaded = load_examples(source, chat, _prompt_of, max_prompt_tokens, validate_row, limit=limit)
    return [prompt for prompt, _ in loaded]


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

    id: str
    prompt: str | tuple[Message, ...]
    answer: T
    """What the row holds besides the prompt."""
    columns: dict[str, Any]


def load_examples(
    source: str | Path,
    chat: Chat | None,
    example_of: Callable[[Row], Example[T]],
    max_prompt_tokens: int | None = None,
    validate_row: RowCheck | None = None,
    *,
    limit: int | None = None,
) -> list[tuple[Prompt, T]]:
    """Read the rows of any shape, as prompt and answer; arguments and errors as in `load_prompts`.

    Args:
        example_of: Reads one row's shape; an InputError that it raises is a problem of the row.
    """
    problems = Problems()
    first_with_id: dict[str, str] = {}
    loaded = []
    for row in _first(read_rows(source, problems), limit):
        with problems.at(row.where):
            example = example_of(row)
            if example.id in first_with_id:
                raise InputError(
                    f"duplicate id {example.id}, already at {first_with_id[example.id]}"
                )
            first_with_id[example.id] = row.where
            if validate_row is not None:
                validate_row(example.columns)
            prompt = _prompt(example, chat)
            if max_prompt_tokens is not None and len(prompt.token_ids) > max_prompt_tokens:
                raise InputError(
                    f"the prompt has {len(prompt.token_ids)} tokens, more than "
                    f"max_prompt_tokens {max_prompt_tokens}"
                )
            loaded.append((prompt, example.answer))
    problems.raise_any()
    return loaded


def _first(rows: Iterator[Row], limit: int | None) -> Iterator[Row]:
    """Yield at most `limit` rows without asking for one more: a later line may be broken."""
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}")
    for count, row in enumerate(rows, start=1):
        yield row
        if count == limit:
            return


def _prompt(example: Example[Any], chat: Chat | None) -> Prompt:
    if chat is None:
        given = example.prompt
        turns = ({"role": "user", "content": given},) if isinstance(given, str) else given
        return Prompt(example.id, turns, (), not isinstance(given, str), example.columns)
    return Prompt(
        id=example.id,
        messages=chat.messages(example.prompt),
        token_ids=chat.encode_prompt(example.prompt),
        is_conversational=not isinstance(example.prompt, str),
        columns=example.columns,
    )


def _demonstration_of(row: Row) -> Example[str | None]:
    return _example(row, needs_completion=True)


def _prompt_of(row: Row) -> Example[str | None]:
    return _example(row, needs_completion=False)


def _example(row: Row, needs_completion: bool) -> Example[str | None]:
    values = row.values
    if values.get("messages") is not None:
        prompt, completion = split_turns(
            turns_value(values["messages"], "messages"), needs_completion
        )
        consumed = {"messages", "completion"}
    elif values.get("prompt") is not None:
        prompt = prompt_value(values["prompt"])
        completion = _completion_value(values, needs_completion)
        consumed = {"prompt", "completion"}
    else:
        wanted = ("prompt", "messages")
        raise InputError(f"no column `prompt` or `messages`{columns_found(values, wanted)}")
    columns = other_columns(values, consumed)
    if completion is not None and not needs_completion:
        columns["completion"] = completion
    return Example(row_id(row), prompt, completion, columns)


def other_columns(values: Mapping[str, Any], consumed: Collection[str]) -> dict[str, Any]:
    """Return the columns that stay with the prompt."""
    columns = {name: value for name, value in values.items() if name not in consumed}
    _normalise_instructions(columns)
    return columns


def columns_found(values: Mapping[str, Any], wanted: tuple[str, ...]) -> str:
    """Return the end of a message about missing columns: a guess, and what the row has."""
    found = [name for name, value in values.items() if value is not None]
    for name in wanted:
        close = get_close_matches(name, found, n=1)
        if close:
            return f"; did you mean `{close[0]}`? (the row has: {', '.join(found)})"
    return f" (the row has: {', '.join(found) or 'nothing'})"


def row_id(row: Row) -> str:
    """Return the row's `key` or `id`, else its number."""
    for name in ("key", "id"):
        value = row.values.get(name)
        if value is None:
            continue
        if (
            isinstance(value, float) and value.is_integer()
        ):  # how Parquet writers store nullable ints
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            raise InputError(f"`{name}` must be a string or a whole number, got {value!r}")
        return str(value)
    return str(row.number)


def prompt_value(value: Any) -> str | tuple[Message, ...]:
    """Check a `prompt`: text, or turns of which the last is not the assistant's."""
    if isinstance(value, str):
        return text_value(value, "`prompt`")
    turns = turns_value(value, "prompt")
    if turns[-1]["role"] in ("assistant", "system"):
        raise InputError(f"`prompt` must end in a user turn, the last is `{turns[-1]['role']}`")
    return turns


def _completion_value(values: Mapping[str, Any], needed: bool) -> str | None:
    value = values.get("completion")
    if value is None:
        if needed:
            found = columns_found(values, ("completion",))
            raise InputError(f"no column `completion`{found}")
        return None
    return completion_text(value, "completion")


def completion_text(value: Any, column: str) -> str:
    """Check a completion: text, or one assistant turn."""
    if isinstance(value, str):
        return text_value(value, f"`{column}`")
    turns = turns_value(value, column)
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        roles = ", ".join(turn["role"] for turn in turns)
        raise InputError(f"`{column}` must be one assistant turn, got: {roles}")
    return text_value(turns[0]["content"], f"`{column}`")


def split_turns(
    turns: tuple[Message, ...], needs_completion: bool, column: str = "messages"
) -> tuple[tuple[Message, ...], str | None]:
    """Return the prompt's turns and the completion, the assistant's last turn, if there is one."""
    *before, last = turns
    if last["role"] != "assistant":
        if needs_completion or last["role"] == "system":
            expected = "an assistant turn" if needs_completion else "a user turn"
            raise InputError(f"`{column}` must end in {expected}, the last is `{last['role']}`")
        return turns, None
    if not before or before[-1]["role"] in ("assistant", "system"):
        raise InputError(f"`{column}` has no user turn before the last assistant turn")
    return tuple(before), text_value(last["content"], "the last assistant turn")


def turns_value(value: Any, column: str) -> tuple[Message, ...]:
    """Check a list of turns."""
    if not isinstance(value, list | tuple) or not value:
        kind = "an empty list" if value in ([], ()) else type(value).__name__
        raise InputError(f"`{column}` must be a string or a list of turns, got {kind}")
    return tuple(_turn(turn, f"{column}[{index}]") for index, turn in enumerate(value))


def _turn(turn: Any, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise InputError(f"`{where}` must be a turn (role and content), got {type(turn).__name__}")
    # tables give every turn every key; null means the turn does not have it
    present = {key: value for key, value in turn.items() if value is not None}
    for key in ("role", "content"):
        if not isinstance(present.get(key), str):
            raise InputError(f"`{where}` needs `{key}` as text, got {present.get(key)!r:.60}")
    for key, value in present.items():
        if not isinstance(value, str):
            raise InputError(f"`{where}` carries `{key}`; only turns of text are supported")
        _encodable(value, f"`{where}`")
    return present


def text_value(value: str, what: str) -> str:
    """Check that a text is not blank and can be encoded."""
    if not value.strip():
        raise InputError(f"{what} is blank")
    return _encodable(value, what)


def _encodable(value: str, what: str) -> str:
    """JSON can spell half of a surrogate pair, which no tokenizer takes."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} holds half a surrogate pair at character {error.start}"
        ) from error
    return value


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
