"""The user's names of columns: `data.columns` or a command's `--columns` maps the names of `shapes.NAMES` to them."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches

from uniapl.data.shapes import BESIDE_ALL, SHAPES, Values
from uniapl.errors import InputError


def check_columns(columns: Mapping[str, str]) -> None:
    """Check a mapping of names from `NAMES` to the user's.

    Raises:
        InputError: Two names stand for one column, or no shape has all of them.
    """
    for column in columns.values():
        doubled = [name for name, other in columns.items() if other == column]
        if len(doubled) > 1:
            raise InputError(f"columns: {' and '.join(doubled)} cannot both be `{column}`")
    if not any(shape.takes(columns) for shape in SHAPES):
        names = [name for name in columns if name not in BESIDE_ALL]
        raise InputError(
            f"columns: no shape has {' and '.join(f'`{n}`' for n in names)}; `prompt` and `completion` will do"
        )


def renamed(row: Values, columns: Mapping[str, str]) -> Values:
    """Return a row under our names; a column of the row that happens to have such a name is left out."""
    if not columns:
        return row
    theirs = set(columns.values())
    rest = {n: v for n, v in row.items() if n not in theirs and n not in columns}
    return {name: row[column] for name, column in columns.items() if column in row} | rest


def missing_columns(columns: Mapping[str, str], found: Collection[str]) -> list[str]:
    """Return a line for each column that the mapping names and no row has."""
    lines: list[str] = []
    for name, column in columns.items():
        if column not in found:
            close = get_close_matches(column, found, n=1, cutoff=0.0)
            hint = f"; the nearest is `{close[0]}`" if close else ""
            lines.append(f"no column `{column}`, which `columns` names for `{name}`{hint}")
    return lines
