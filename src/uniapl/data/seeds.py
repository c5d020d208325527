"""Seed prompts for `uniapl prompts`: what somebody might ask, without instructions to check."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uniapl.data.sources import Problems, Row, read_rows
from uniapl.files import check_text
from uniapl.types import InputError, Prompt
from uniapl.words import num_written_words

_PROMPT_COLUMNS = ("prompt", "instruction", "question", "text")
_CONTEXT_COLUMNS = ("context", "input")
_COMPLETION_COLUMNS = ("completion", "response", "output", "answer")


@dataclass(slots=True)
class Seeds:
    """Seed prompts, and the rows that are none."""

    prompts: list[Prompt] = field(default_factory=list)
    """Without token ids; `columns["completion"]` is the row's answer, if it has one."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Rows left out, by reason."""


def read_seeds(source: str | Path, *, max_words: int = 200, joins_context: bool = False) -> Seeds:
    """Read seed prompts.

    Args:
        source: A text file with a prompt per line (`.txt`), or rows in any form that `read_rows` knows with a
            column `prompt`, `instruction`, `question` or `text`, or `messages` that start with a user turn.
            Self-Instruct's `instances` are known too: the first one counts.
        max_words: Longer ones are left out.
        joins_context: Put the text that a prompt needs (`context`, `input`) below it; else leave such
            rows out.

    Raises:
        InputError: The source cannot be read, or a row has none of these columns.
    """
    seeds = Seeds()
    problems = Problems()
    for row in _rows(source, problems):
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
                seeds.prompts.append(_seed(row, values, text))
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
    path = Path(source).expanduser()
    if path.suffix.lower() != ".txt":
        return read_rows(source, problems)
    if not path.is_file():
        raise InputError(f"no such file: {source}")
    try:
        # not `splitlines`, which also cuts at form feeds and U+2028
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8") from error
    numbered = enumerate(lines, start=1)
    return [Row(n, f"{path}:{n}", {"text": line}) for n, line in numbered if line.strip()]


def _prompt_text(row: Mapping[str, Any]) -> str:
    for name in _PROMPT_COLUMNS:
        if isinstance(row.get(name), str):
            return row[name]
    turns = row.get("messages") or row.get("prompt")
    if isinstance(turns, list) and turns and isinstance(turns[0], Mapping):
        users = [turn.get("content") for turn in turns if turn.get("role") == "user"]
        if users and isinstance(users[0], str):
            return users[0]
    raise InputError(
        f"no prompt: none of the columns {', '.join(_PROMPT_COLUMNS)}, messages holds one "
        f"(the row has: {', '.join(row) or 'nothing'})"
    )


def _first_instance(row: Mapping[str, Any]) -> Mapping[str, Any]:
    instances = row.get("instances")
    if isinstance(instances, list) and instances and isinstance(instances[0], Mapping):
        return {**row, **instances[0]}
    return row


def _seed(row: Row, values: Mapping[str, Any], text: str) -> Prompt:
    identity = next((values[n] for n in ("key", "id") if values.get(n) is not None), None)
    completion = _completion(values)
    if completion is not None:
        check_text(completion, "the completion")
    columns = {} if completion is None else {"completion": completion}
    turns = ({"role": "user", "content": text},)
    return Prompt(str(row.number if identity is None else identity), turns, (), False, columns)


def _completion(row: Mapping[str, Any]) -> str | None:
    for name in _COMPLETION_COLUMNS:
        if isinstance(row.get(name), str):
            return row[name]
    turns = row.get("messages") or row.get("completion")
    if isinstance(turns, list) and turns and isinstance(turns[-1], Mapping):
        content = turns[-1].get("content")
        if turns[-1].get("role") == "assistant" and isinstance(content, str):
            return content
    return None
