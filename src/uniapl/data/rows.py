"""A row of a data set with the place it came from, and the list of everything that is wrong with a data set."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from uniapl.errors import InputError


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set."""

    number: int
    """The line on which it starts in a JSONL, CSV or text file, else the count of rows; both from 1."""
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


def row_key(row: Row) -> str | None:
    """Return what the row calls itself, its `key` or `id`; None if it has neither.

    Raises:
        InputError: it is neither text nor a whole number.
    """
    for name in ("key", "id"):
        value = row.values.get(name)
        if value is None:
            continue
        # Parquet writers store whole numbers as floats where a row has none
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            raise InputError(f"`{name}` must be a string or a whole number, got {value!r:.60}")
        return str(value)
    return None


def number_as_id(number: int, keys: Collection[str]) -> str:
    """Return the id of a row without a key: its number, or `row 7` where 7 is another row's key."""
    name = str(number)
    while name in keys:
        name = f"row {name}"
    return name
