"""Checkers of `change_case:*`: capital letters, small letters, words in capitals."""

import re

from uniapl.instructions.detection import detect
from uniapl.instructions.lengths import holds

_SEPARATORS = re.compile(r"""[][(){}<>«»“”„‘’`";@#$%&?!*‒-―]|[:,](?!\d)|--|''|\.{2,}""")

_CLITIC = re.compile(r"('(?:[sSmMdD]|ll|LL|re|RE|ve|VE)?|n't|N'T)$")

_TWO_WORDS = frozenset({"CANNOT", "GIMME", "GONNA", "GOTTA", "LEMME", "WANNA"})


def english_capital(response: str) -> bool:
    """Whether the response is English without a small letter."""
    # langdetect skips words in capitals; their small form is what it can read.
    return response.isupper() and detect(response.lower()) == "en"


def english_capital_as_published(response: str) -> bool:
    """Whether the response has no small letter and is, as it stands, English or unreadable."""
    return response.isupper() and detect(response) in ("en", None)


def english_lowercase(response: str) -> bool:
    """Whether the response is English without a capital letter."""
    return response.islower() and detect(response) == "en"


def english_lowercase_as_published(response: str) -> bool:
    """Whether the response has no capital letter and is English or unreadable."""
    return response.islower() and detect(response) in ("en", None)


def capital_word_frequency(response: str, capital_frequency: int, capital_relation: str) -> bool:
    """Whether enough (or few enough) words are written in capitals only, "I" and "A" included."""
    return holds(count_capital_words(response), capital_relation, capital_frequency)


def count_capital_words(text: str) -> int:
    """Count the words without small letters, split as in the Penn Treebank.

    Blanks, brackets, quotes and most punctuation divide words; hyphens, slashes and inner periods
    do not; clitics are words of their own: "I'M" counts twice, "I'm" once, "X-RAY" once.
    """
    count = 0
    for chunk in text.split():
        if chunk.isalpha():
            count += _capital_words([chunk])
        elif not chunk.islower():
            for piece in _SEPARATORS.split(chunk):
                count += _capital_words(_CLITIC.sub(r" \1", piece.rstrip(".")).split())
    return count


def _capital_words(words: list[str]) -> int:
    return sum(1 + (word in _TWO_WORDS) for word in words if word.isupper())
