"""How much a text repeats itself."""

import re
from collections.abc import Sequence

REPEATED = 3
"""Words of the n-grams whose repetition counts: pairs repeat in good text too."""
_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Return words and marks, lower case."""
    return _WORD.findall(text.lower())


def ngrams(text: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return all runs of n words."""
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def repetition_fraction(text: Sequence[str]) -> float:
    """Return the share of 3-grams that occurred before in the same text; 0 if it is too short for one."""
    grams = ngrams(text, REPEATED)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
