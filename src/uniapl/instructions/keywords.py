"""Checkers of `keywords:*`: which words and letters a response holds.

Upper and lower case are one everywhere. A keyword also counts inside a longer word ("cat" in
"cats"), a forbidden word only as a whole word. IFEval reads a keyword as a regular expression, so
that "C++" means "one or more C"; the plain functions take it literally, the `_by_pattern` ones
as IFEval does.
"""

import re

from uniapl.instructions.arguments import InstructionError
from uniapl.instructions.lengths import holds
from uniapl.words import whole_word_pattern


def existence(response: str, keywords: tuple[str, ...]) -> bool:
    """Whether every keyword occurs."""
    return all(_occurs(re.escape(keyword.strip()), response) for keyword in keywords)


def existence_by_pattern(response: str, keywords: tuple[str, ...]) -> bool:
    """Whether every keyword, read as a regular expression, occurs."""
    return all(_occurs(keyword, response) for keyword in keywords)


def frequency(response: str, keyword: str, frequency: int, relation: str) -> bool:
    """Whether the keyword occurs often (or seldom) enough; occurrences do not overlap."""
    return holds(_occurrences(re.escape(keyword.strip()), response), relation, frequency)


def frequency_by_pattern(response: str, keyword: str, frequency: int, relation: str) -> bool:
    """Whether the keyword, read as a regular expression, occurs often (or seldom) enough."""
    return holds(_occurrences(keyword.strip(), response), relation, frequency)


def forbidden_words(response: str, forbidden_words: tuple[str, ...]) -> bool:
    """Whether none of the words occurs as a whole word."""
    # Not \b: behind the last "+" of "C++" it would ask for a letter.
    return not any(whole_word_pattern(word).search(response) for word in forbidden_words)


def forbidden_words_by_pattern(response: str, forbidden_words: tuple[str, ...]) -> bool:
    r"""Whether none of the words, read as a regular expression between two `\b`, occurs."""
    return not any(_occurs(rf"\b{word}\b", response) for word in forbidden_words)


def letter_frequency(response: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    """Whether the letter occurs often (or seldom) enough.

    Any character counts, also "#" or "!", which two of IFEval's prompts ask for and for which its
    code draws a random letter instead.
    """
    return holds(response.lower().count(letter.lower()), let_relation, let_frequency)


def _occurs(pattern: str, response: str) -> bool:
    return _compile(pattern).search(response) is not None


def _occurrences(pattern: str, response: str) -> int:
    return sum(1 for _ in _compile(pattern).finditer(response))


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as problem:
        raise InstructionError(
            f"official scoring reads {pattern!r} as a regular expression, which it is not: {problem}"
        ) from None
