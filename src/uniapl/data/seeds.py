"""Seed prompts for `uniapl prompts`: what somebody might ask, without instructions to check."""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uniapl.data.columns import missing_columns, renamed
from uniapl.data.formats import read_text_lines
from uniapl.data.rows import Problems, Row, number_as_id, row_key
from uniapl.data.sources import local_file, read_rows
from uniapl.data.turns import content_text
from uniapl.errors import InputError
from uniapl.files import check_text
from uniapl.types import Prompt
from uniapl.words import num_written_words

_PROMPT_COLUMNS = ("prompt", "instruction", "question", "query", "text")
_TURN_COLUMNS = ("messages", "conversations", "prompt")
_CONTEXT_COLUMNS = ("context", "input")
_COMPLETION_COLUMNS = ("completion", "response", "output", "answer")


@dataclass(slots=True)
class Seeds:
    """Seed prompts, and the rows that are none."""

    prompts: list[Prompt] = field(default_factory=list)
    """Without token ids; `columns["completion"]` is the row's answer, if it has one."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Rows left out, by reason."""


def read_seeds(
    source: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    max_words: int = 200,
    joins_context: bool = False,
) -> Seeds:
    """Read seed prompts.

    Args:
        source: A text file with a prompt per line (`.txt`, `.txt.gz`), or rows in any form that `read_rows` knows
            with a column `prompt`, `instruction`, `question`, `query` or `text`, or `messages` or `conversations`,
            of which the first user turn counts. Of Self-Instruct's `instances` the first one counts.
        columns: Names of these → the file's, where they are others.
        max_words: Longer ones are left out.
        joins_context: Put the text that a prompt needs (`context`, `input`) below it; else leave such
            rows out.

    Raises:
        InputError: The source cannot be read, or a row has none of these columns.
    """
    seeds = Seeds()
    problems = Problems()
    rows = _renamed(source, list(_rows(source, problems)), columns or {})
    keys = _keys(rows)
    for row in rows:
        with problems.at(row.where):
            values = _first_instance(row.values)
            text = check_text(_prompt_text(values).strip(), "the prompt")
            given = (str(values.get(name) or "").strip() for name in _CONTEXT_COLUMNS)
            context = "\n\n".join(part for part in given if part)
            if context and joins_context:
                text = f"{text}\n\n{context}"
            if not text:
                seeds.dropped["blank"] += 1
            elif context and not joins_context:
                seeds.dropped["needs a context"] += 1
            elif num_written_words(text) > max_words:
                seeds.dropped[f"longer than {max_words} words"] += 1
            else:
                seeds.prompts.append(_seed(row, values, text, keys))
    problems.raise_any()
    return seeds


def read_texts(source: str | Path) -> list[str]:
    """Return the prompts of a benchmark file or of any other seeds, to compare with."""
    problems = Problems()
    texts = []
    for row in _rows(source, problems):
        with problems.at(row.where):
            texts.append(_prompt_text(row.values))
    problems.raise_any()
    return texts


def _rows(source: str | Path, problems: Problems) -> Iterable[Row]:
    name = str(source).lower().removesuffix(".gz")
    if not name.endswith(".txt"):
        return read_rows(source, problems)
    path = local_file(source)
    assert path is not None
    numbered = read_text_lines(path)
    return (Row(n, f"{path}:{n}", {"text": line}) for n, line in numbered if line.strip())


def _renamed(source: str | Path, rows: list[Row], columns: Mapping[str, str]) -> list[Row]:
    """Return the rows under our names; a completion may be missing: not every use of seeds needs one."""
    found = {name for row in rows for name in row.values}
    wanted = {n: c for n, c in columns.items() if n not in _COMPLETION_COLUMNS}
    for line in missing_columns(wanted, found):
        raise InputError(f"{source}: {line}")
    return [Row(row.number, row.where, dict(renamed(row.values, columns))) for row in rows]


def _keys(rows: Iterable[Row]) -> set[str]:
    keys: set[str | None] = set()
    for row in rows:
        with suppress(InputError):  # said where the row is read
            keys.add(row_key(row))
    return {key for key in keys if key is not None}


def _prompt_text(row: Mapping[str, Any]) -> str:
    for name in _PROMPT_COLUMNS:
        if isinstance(row.get(name), str):
            return row[name]
    for turn in _turns(row, _TURN_COLUMNS):
        if _role(turn) in ("user", "human"):
            return content_text(_content(turn), "the first user turn")
    raise InputError(
        f"no prompt: none of the columns {', '.join(_PROMPT_COLUMNS)}, messages, conversations holds one "
        f"(the row has: {', '.join(row) or 'nothing'})"
    )


def _turns(row: Mapping[str, Any], columns: Iterable[str]) -> list[Mapping[str, Any]]:
    """Return the turns of the first column that holds any.

    They are not checked: a seed is one turn, and may come from a conversation with tools or images.
    """
    for column in columns:
        turns = row.get(column)
        if isinstance(turns, list) and turns and all(isinstance(turn, Mapping) for turn in turns):
            return turns
    return []


def _role(turn: Mapping[str, Any]) -> Any:
    return turn.get("role") or turn.get("from")


def _content(turn: Mapping[str, Any]) -> Any:
    content = turn.get("content")
    return turn.get("value") if content is None else content


def _first_instance(row: Mapping[str, Any]) -> Mapping[str, Any]:
    instances = row.get("instances")
    if isinstance(instances, list) and instances and isinstance(instances[0], Mapping):
        return {**row, **instances[0]}
    return row


def _seed(row: Row, values: Mapping[str, Any], text: str, keys: set[str]) -> Prompt:
    completion = _completion(values)
    if completion is not None:
        check_text(completion, "the completion")
    columns = {} if completion is None else {"completion": completion}
    turns = ({"role": "user", "content": text},)
    return Prompt(row_key(row) or number_as_id(row.number, keys), turns, (), False, columns)


def _completion(row: Mapping[str, Any]) -> str | None:
    for name in _COMPLETION_COLUMNS:
        if isinstance(row.get(name), str):
            return row[name]
    turns = _turns(row, ("messages", "conversations", "completion"))
    if not turns or _role(turns[-1]) not in ("assistant", "gpt") or _content(turns[-1]) is None:
        return None
    return content_text(_content(turns[-1]), "the last assistant turn")
