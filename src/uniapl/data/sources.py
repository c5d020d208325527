"""Rows out of files and hub data sets, each with the place it came from; every problem names that place.

`readers.py` gives the rows their meaning.
"""

import gzip
import importlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from io import BufferedReader
from pathlib import Path
from types import ModuleType
from typing import Any

from uniapl.types import InputError

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".json", ".json.gz", ".parquet")

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:\w+)?")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set."""

    number: int
    """The line in a JSONL file, else the row, both from 1."""
    where: str
    """`file:line`, or `file row n`."""
    values: Mapping[str, Any]


class Problems:
    """Collects what is wrong, so that the user sees all of it at once."""

    def __init__(self, shown: int = 10) -> None:
        self._shown = shown
        self._places: dict[str, list[str]] = {}

    def add(self, where: str, what: str) -> None:
        """Remember a problem; the same one in many rows becomes one line."""
        self._places.setdefault(what, []).append(where)

    @contextmanager
    def at(self, where: str) -> Iterator[None]:
        """Turn an InputError of the block into a problem of this place."""
        try:
            yield
        except InputError as error:
            self.add(where, str(error))

    def raise_any(self) -> None:
        """Raise all of them.

        Raises:
            InputError: there are problems; one line each, the first so many.
        """
        if not self._places:
            return
        lines = []
        for what, (first, *others) in self._places.items():
            more = (
                f" (and {len(others)} more row{'s' if len(others) > 1 else ''})" if others else ""
            )
            lines.append(f"{first}: {what}{more}")
        if len(lines) > self._shown:
            lines[self._shown :] = [f"... and {len(lines) - self._shown} more"]
        raise InputError("\n".join(lines))


def read_rows(source: str | Path, problems: Problems) -> Iterator[Row]:
    """Yield the rows of a JSONL, JSON or Parquet file, or of a hub data set (`owner/name[:split]`).

    Lines that are no JSON object become problems; the rest is still read.

    Raises:
        InputError: there is no such file or data set, it cannot be opened, or it has no rows.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        raise InputError(f"{source} is a folder; give one of the files in it")
    if path.exists():
        rows = _read_file(path, problems)
    elif _looks_like_hub_id(str(source)):
        rows = _read_hub(str(source))
    else:
        raise InputError(f"no such file: {source}{_did_you_mean(path)}")
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        # a file of which every line is broken is not empty
        problems.raise_any()
        raise InputError(f"{source} has no rows")


def _read_file(path: Path, problems: Problems) -> Iterator[Row]:
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _read_parquet(path)
    if name.endswith((".json", ".json.gz")) and _starts_with_bracket(path):
        return _read_json_array(path, problems)
    if name.endswith(SUFFIXES):
        return _read_json_lines(path, problems)
    raise InputError(f"{path}: unknown kind of file; known are {', '.join(SUFFIXES)}")


def _looks_like_hub_id(source: str) -> bool:
    if source.lower().endswith(SUFFIXES) or _HUB_ID.fullmatch(source) is None:
        return False
    # a folder of the owner's name: a mistyped file is likelier
    return not Path(source).parent.is_dir()


def _did_you_mean(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor is there a folder {path.parent})"
    siblings = sorted(entry.name for entry in path.parent.iterdir())
    # by the name without suffixes too: a forgotten suffix is half of a short name
    by_name = {name.partition(".")[0]: name for name in siblings} | {
        name: name for name in siblings
    }
    close = get_close_matches(path.name, by_name, n=1)
    return f"; did you mean {path.parent / by_name[close[0]]}?" if close else ""


@contextmanager
def _opened(path: Path) -> Iterator[gzip.GzipFile | BufferedReader]:
    """Open a file, gzipped or not; failures to read it become InputErrors."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _starts_with_bracket(path: Path) -> bool:
    with _opened(path) as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _read_json_lines(path: Path, problems: Problems) -> Iterator[Row]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                # utf-8-sig: some editors put a byte order mark before the first line
                values = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError:
                problems.add(where, "not UTF-8")
            except json.JSONDecodeError as error:
                problems.add(where, f"not JSON: {error.msg} at column {error.colno}")
            else:
                if isinstance(values, dict):
                    yield Row(number, where, values)
                else:
                    problems.add(where, f"a row must be a JSON object, not {_kind(values)}")


def _read_json_array(path: Path, problems: Problems) -> Iterator[Row]:
    with _opened(path) as file:
        content = file.read()
    try:
        items = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}"
        ) from error
    for number, values in enumerate(items, start=1):
        where = f"{path} row {number}"
        if isinstance(values, dict):
            yield Row(number, where, values)
        else:
            problems.add(where, f"a row must be a JSON object, not {_kind(values)}")


def _read_parquet(path: Path) -> Iterator[Row]:
    parquet = _optional("pyarrow.parquet", "pyarrow", f"{path}: reading Parquet")
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                yield Row(number, f"{path} row {number}", values)
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        raise InputError(f"{path}: not a readable Parquet file: {_one_line(error)}") from error


def _read_hub(source: str) -> Iterator[Row]:
    name, _, split = source.partition(":")
    datasets = _optional("datasets", "datasets", f"{source}: no such file; reading it from the hub")
    try:
        data = datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # whatever the hub's HTTP library raises when it cannot be reached
        raise InputError(
            f"{source}: no such file, and not a data set that could be loaded "
            f"({type(error).__name__}: {_one_line(error)})"
        ) from error
    for number, values in enumerate(data, start=1):
        yield Row(number, f"{source} row {number}", values)


def _optional(module: str, package: str, purpose: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(f"{purpose} needs {package}: pip install {package}") from error


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _one_line(error: Exception, limit: int = 200) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
