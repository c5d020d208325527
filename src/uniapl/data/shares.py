"""Several sources as one list, in which each has its share.

As many rows as the shares allow are drawn from each source, once per run; the rest is left out. So no row comes
twice in an epoch, the source that is scarcest for its share is used whole, and `mixture.Stream` sees one list
that a resumed run makes again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from math import floor
from pathlib import Path
from typing import TypeVar

from uniapl.data.mixture import permutation, random_words
from uniapl.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """One of the sources of a list."""

    path: str
    """File or hub id."""
    share: float | None = None
    """Part of the draws that come from it, relative to the other shares; None: all of its rows."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """As in `data.columns`."""


def read_sources(
    sources: Sequence[Source], read: Callable[..., list[T]], *, name: str, seed: int
) -> tuple[list[T], list[str]]:
    """Read all sources into one list, shuffled where there are several.

    Args:
        sources: Different ones, of which either all have a share or none.
        read: `load_demonstrations` or `load_prompts` with what is the same for all sources; called with path,
            `columns` and `id_prefix`. With several sources ids begin with the number of theirs: `1:17`.
        name: The config's key, for messages; with `seed` it decides which rows are drawn, and the order.
        seed: The run's.

    Returns:
        The list, and a line for each source with a share: how many of its rows were drawn.

    Raises:
        InputError: A source cannot be read, or has too few rows for the shares.
    """
    if len(sources) == 1:
        return read(sources[0].path, columns=sources[0].columns), []
    parts: list[list[T]] = []
    problems: list[str] = []
    for number, source in enumerate(sources):
        try:
            parts.append(read(source.path, columns=source.columns, id_prefix=f"{number}:"))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    notes: list[str] = []
    if sources[0].share is not None:
        shares = [Fraction(repr(source.share)) for source in sources]
        start = Fraction(int(random_words(1, seed, name, len(sources))[0]), 2**64)
        counts = rows_by_share([len(part) for part in parts], shares, start)
        for number, (source, part, count) in enumerate(zip(sources, parts, counts, strict=True)):
            if sum(counts) * shares[number] < sum(shares):
                raise InputError(
                    f"{name}: {sum(counts)} rows in all are too few for a share of {source.share:g} "
                    f"({Path(source.path).name}); bring more rows or raise it"
                )
            drawn = sorted(permutation(len(part), seed, name, number)[:count])
            notes.append(
                f"{name}: {count} of {len(part)} rows of {source.path}, share {source.share:g}"
            )
            parts[number] = [part[index] for index in drawn]
    items = [item for part in parts for item in part]
    order = permutation(len(items), seed, name, len(sources) + 1)
    return [items[index] for index in order], notes


def rows_by_share(sizes: Sequence[int], shares: Sequence[Fraction], start: Fraction) -> list[int]:
    """Return how many rows each source gives: the most for which no source gives a row twice.

    With T rows in all, a source of share p gives T·p, rounded up or down so that the sum is T and, over a
    uniform start, the mean is T·p exactly (systematic sampling).

    Args:
        sizes: Rows of each source.
        shares: Positive, relative to their sum.
        start: Between 0 and 1.

    Example:
        >>> rows_by_share([100, 30], [Fraction(1, 2), Fraction(1, 2)], Fraction(0))
        [30, 30]
    """
    parts = [share / sum(shares) for share in shares]
    total = min(floor(size / part) for size, part in zip(sizes, parts, strict=True))
    edges = [floor(total * sum(parts[:end]) + start) for end in range(len(parts) + 1)]
    return [upper - lower for lower, upper in pairwise(edges)]
