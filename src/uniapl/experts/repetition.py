"""How much a text repeats itself."""

from collections.abc import Sequence
from fractions import Fraction

from uniapl.words import composed, has_blankless, needs_dictionary, units

REPEATED = 3
"""Words of the n-grams whose repetition counts: pairs repeat in good text too."""

_PARTS_OF_WORD, _PARTS_OF_LONG_WORD = 2, 3
"""How many characters of Chinese and Japanese, and syllables of Thai and its like, make about a word."""

_LONGEST_WORD = 30
"""Characters; hardly a word has more, but "hahaha..." and text that puts no blanks between words do."""


def words(text: str) -> list[str]:
    """Return words and marks, lower case; of a script without blanks its characters."""
    return units(composed(text).lower())


def ngrams(text: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return all runs of n words."""
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def repetition_fraction(text: Sequence[str]) -> float:
    """Return the share of 3-grams that occurred before in the same text; 0 if it is too short for one.

    Where a text has no blanks, an n-gram has as many characters as make about three words. A word of more than 30
    characters that mostly repeats itself counts as single characters.
    """
    text = [part for word in text for part in _parts(word)]
    sizes = [_size(word) for word in text]
    grams = _grams(text, sizes) if any(size < 1 for size in sizes) else ngrams(text, REPEATED)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _parts(word: str) -> Sequence[str]:
    """Return a word, or its characters if it is one by name only; a line of underscores is a mark."""
    if len(word) <= _LONGEST_WORD or not word.strip("_"):
        return (word,)
    grams = ngrams(word, REPEATED)
    return word if 2 * len(set(grams)) < len(grams) else (word,)


def _size(word: str) -> Fraction:
    """Return how much of a word it is."""
    if not has_blankless(word):
        return Fraction(1)
    return Fraction(1, _PARTS_OF_LONG_WORD if needs_dictionary(word) else _PARTS_OF_WORD)


def _grams(text: Sequence[str], sizes: Sequence[Fraction]) -> list[tuple[str, ...]]:
    """Return the shortest runs from each place on that make up three words."""
    grams: list[tuple[str, ...]] = []
    end, total = 0, Fraction(0)
    for start, first in enumerate(sizes):
        while end < len(text) and total < REPEATED:
            total += sizes[end]
            end += 1
        if total < REPEATED:
            break
        grams.append(tuple(text[start:end]))
        total -= first
    return grams
