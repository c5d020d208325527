"""Checkers of `length_constraints:*`: how many words, sentences and paragraphs a response has.

IFEval counts as English does. The plain functions count in any script (`uniapl.words`), the `_as_published` ones as
IFEval does.
"""

import re

from uniapl.instructions.sentences import (
    count_english_sentences,
    count_sentences,
    max_sentences,
)
from uniapl.words import COMMAS, find_words, has_blankless


def holds(count: int, relation: str, threshold: int) -> bool:
    """Whether `count` is at least, or less than, the threshold."""
    return count >= threshold if relation == "at least" else count < threshold


_FIRST_WORD_ENDS = re.compile(rf"[.?!'\"{COMMAS}]|[。！？।؟۔]")


def number_words(response: str, num_words: int, relation: str) -> bool:
    """Whether there are enough (or few enough) words in any script; "don't" is two."""
    return holds(len(find_words(response)), relation, num_words)


def number_words_as_published(response: str, num_words: int, relation: str) -> bool:
    r"""Whether there are enough (or few enough) words: runs of `\w`, so "don't" is two."""
    return holds(len(re.findall(r"\w+", response)), relation, num_words)


def number_paragraphs(response: str, num_paragraphs: int) -> bool:
    """Whether `***` divides the response into exactly so many paragraphs.

    A blank piece is ignored at the start and at the end and is a failure elsewhere.
    """
    pieces = [piece.strip() for piece in response.split("***")]
    return all(pieces[1:-1]) and sum(map(bool, pieces)) == num_paragraphs


def nth_paragraph_first_word(
    response: str, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    """Whether there are exactly so many paragraphs and the n-th starts with the word.

    Two line breaks divide paragraphs. Blank ones are not counted, but keep their place in the
    numbering: a blank n-th paragraph fails. Where no blank ends a word, any first characters are one.
    """
    start = _start_of_paragraph(response, num_paragraphs, nth_paragraph)
    if start is None:
        return False
    if has_blankless(first_word[-1]):
        return start.lower().startswith(first_word.lower())
    return _FIRST_WORD_ENDS.split(start, maxsplit=1)[0].lower() == first_word.lower()


def nth_paragraph_first_word_as_published(
    response: str, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    """The same, where only English punctuation and blanks end a word."""
    start = _start_of_paragraph(response, num_paragraphs, nth_paragraph)
    if start is None:
        return False
    return re.split(r"[.,?!'\"]", start, maxsplit=1)[0].lower() == first_word.lower()


def _start_of_paragraph(response: str, num_paragraphs: int, nth_paragraph: int) -> str | None:
    """Return what stands before the first blank of the n-th paragraph; None if there are not so many."""
    pieces = response.split("\n\n")
    if sum(bool(piece.strip()) for piece in pieces) != num_paragraphs:
        return None
    if nth_paragraph > num_paragraphs:
        return None
    words = pieces[nth_paragraph - 1].split(maxsplit=1)
    if not words:
        return None
    # The order matters: a word in ' inside " keeps nothing, one in " inside ' loses both.
    return words[0].lstrip("'").lstrip('"')


def number_sentences(response: str, num_sentences: int, relation: str) -> bool:
    """Whether there are enough (or few enough) sentences, as Punkt and other scripts' marks divide them."""
    if max_sentences(response) < num_sentences:
        return relation == "less than"
    return holds(count_sentences(response), relation, num_sentences)


def number_sentences_as_published(response: str, num_sentences: int, relation: str) -> bool:
    """Whether there are enough (or few enough) sentences, as Punkt alone divides them."""
    if max_sentences(response) < num_sentences:
        return relation == "less than"
    return holds(count_english_sentences(response), relation, num_sentences)
