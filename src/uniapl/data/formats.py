"""Rows out of files: JSONL, JSON arrays, CSV and Parquet, each also gzipped. One function reads each format.

A line that is no row becomes a problem, and the rest is still read; a file that cannot be read at all is an
InputError.
"""

import csv
import gzip
import importlib
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import Any

from uniapl.data.rows import Problems, Row
from uniapl.errors import InputError, one_line

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
"""Each also with `.gz` behind it."""

_Binary = gzip.GzipFile | BufferedReader


def has_known_suffix(name: str) -> bool:
    """Return whether the name is that of a file which `read_file` reads."""
    return name.lower().removesuffix(".gz").endswith(SUFFIXES)


def read_file(path: Path, problems: Problems) -> Iterator[Row]:
    """Yield the rows of a file; its suffix says how to read it.

    Raises:
        InputError: the suffix is unknown, or the file cannot be read.
    """
    match Path(path.name.lower().removesuffix(".gz")).suffix:
        case ".json" if _starts_with_bracket(path):
            return _read_json_array(path, problems)
        case ".jsonl" | ".ndjson" | ".json":
            return _read_json_lines(path, problems)
        case ".csv":
            return _read_csv(path, problems)
        case ".parquet":
            return _read_parquet(path)
    known = ", ".join(SUFFIXES)
    raise InputError(f"{path}: unknown kind of file; known are {known}, each also with .gz")


def read_text_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Yield number and text of the lines of a UTF-8 file, gzipped or not.

    Only `\n`, `\r\n` and `\r` end a line; U+2028 and the form feed, which `str.splitlines` takes for ends,
    stand inside texts.

    Raises:
        InputError: the file cannot be read.
    """
    with _opened(path) as file, _text(path, file, newline=None) as text:
        for number, line in enumerate(text, start=1):
            yield number, line.removesuffix("\n")


@contextmanager
def _opened(path: Path) -> Iterator[_Binary]:
    """Open a file, gzipped or not; failures to read it become InputErrors."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {one_line(error)}") from error


@contextmanager
def _text(path: Path, file: _Binary, newline: str | None) -> Iterator[TextIOWrapper]:
    try:
        # utf-8-sig: some editors put a byte order mark before the first line
        yield TextIOWrapper(file, encoding="utf-8-sig", newline=newline)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8") from error


def _starts_with_bracket(path: Path) -> bool:
    with _opened(path) as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _read_json_lines(path: Path, problems: Problems) -> Iterator[Row]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            if number == 1 and line.strip() == b"{":  # one object, written over several lines
                raise InputError(
                    f"{where}: an object begins that is not on one line; a file holds an array of objects, "
                    "or one object per line"
                )
            with problems.at(where):
                yield Row(number, where, _object(_parsed(line), _may_hold_halves(line)))


def _read_json_array(path: Path, problems: Problems) -> Iterator[Row]:
    with _opened(path) as file:
        content = file.read()
    try:
        items = _parsed(content)
    except InputError as error:
        cause = error.__cause__
        line = f":{cause.lineno}" if isinstance(cause, json.JSONDecodeError) else ""
        raise InputError(f"{path}{line}: {error}") from error
    may_hold_halves = _may_hold_halves(content)
    for number, values in enumerate(items, start=1):
        where = f"{path} row {number}"
        with problems.at(where):
            yield Row(number, where, _object(values, may_hold_halves))


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique)
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8") from error
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise InputError("lists or objects are nested too deeply to be read") from error
    except ValueError as error:  # Python refuses to convert very long integers
        digits = sys.get_int_max_str_digits()
        raise InputError(f"a number of more than {digits} digits; write it as text") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, or refuse one that has a key twice: Python would keep the last one."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"the key `{twice}` is there twice")
    return values


def _may_hold_halves(content: bytes) -> bool:
    """Return whether JSON may spell half a surrogate pair: most files do not, and need no second look."""
    return b"\\ud" in content or b"\\uD" in content


def _object(values: Any, may_hold_halves: bool) -> dict[str, Any]:
    if not isinstance(values, dict):
        names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
        kind = names.get(type(values), "a number")
        raise InputError(f"a row must be a JSON object, not {kind}")
    if may_hold_halves:
        for name, value in values.items():
            _check_encodable(name, value)
    return values


def _check_encodable(name: str, value: Any) -> None:
    """Refuse half a surrogate pair, which neither a tokenizer nor a file takes."""
    try:
        json.dumps([name, value], ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        shown = name.encode("utf-8", "backslashreplace").decode()
        half = ord(error.object[error.start])
        raise InputError(f"`{shown}` holds half a surrogate pair, \\u{half:x}") from error


def _read_csv(path: Path, problems: Problems) -> Iterator[Row]:
    """Yield rows of text: a CSV file does not say which cells are numbers. An empty cell is null.

    A column without a name is left out: it is the index that pandas writes.
    """
    csv.field_size_limit(sys.maxsize)  # the module's own limit of 131,072 is one long completion
    with _opened(path) as file, _text(path, file, newline="") as text:
        reader = csv.reader(text, strict=True)
        start = 1
        header: list[str] = []
        try:
            for cells in reader:
                number, start = start, reader.line_num + 1
                if not any(cell.strip() for cell in cells):
                    continue
                if not header:
                    header = _header(path, cells)
                    continue
                where = f"{path}:{number}"
                if len(cells) != len(header):
                    problems.add(where, f"{len(cells)} cells, but the header has {len(header)}")
                    continue
                named = zip(header, cells, strict=True)
                yield Row(number, where, {name: cell or None for name, cell in named if name})
        except csv.Error as error:
            raise InputError(f"{path}:{start}: not CSV: {one_line(error)}") from error


def _header(path: Path, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    doubled = next((name for name in header if name and header.count(name) > 1), None)
    if doubled is not None:
        raise InputError(f"{path}: two columns are called `{doubled}`")
    return header


def _read_parquet(path: Path) -> Iterator[Row]:
    parquet = optional("pyarrow.parquet", "pyarrow", f"{path}: reading Parquet")
    number = 0
    try:
        with _opened(path) as file:
            table = parquet.ParquetFile(file)
            _unique([(name, None) for name in table.schema_arrow.names])
            for batch in table.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(number, f"{path} row {number}", values)
    except (ValueError, OSError) as error:  # pyarrow's own errors derive from these
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a readable Parquet file: {one_line(error)}") from error


def optional(module: str, package: str, purpose: str) -> ModuleType:
    """Import a package that not everybody needs.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(f"{purpose} needs {package}: pip install 'uniapl[data]'") from error
