"""Checkers of `length_constraints:*`: how many words, sentences and paragraphs a response has."""

import re

from uniapl.instructions.sentences import count_sentences, max_sentences


def holds(count: int, relation: str, threshold: int) -> bool:
    """Whether `count` is at least, or less than, the threshold."""
    return count >= threshold if relation == "at least" else count < threshold


def number_words(response: str, num_words: int, relation: str) -> bool:
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
    numbering: a blank n-th paragraph fails.
    """
    pieces = response.split("\n\n")
    if sum(bool(piece.strip()) for piece in pieces) != num_paragraphs:
        return False
    if nth_paragraph > num_paragraphs:
        return False
    words = pieces[nth_paragraph - 1].split(maxsplit=1)
    if not words:
        return False
    # The order matters: a word in ' inside " keeps nothing, one in " inside ' loses both.
    word = words[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word, maxsplit=1)[0].lower() == first_word.lower()


def number_sentences(response: str, num_sentences: int, relation: str) -> bool:
    """Whether there are enough (or few enough) sentences, as Punkt divides them."""
    if max_sentences(response) < num_sentences:
        return relation == "less than"
    return holds(count_sentences(response), relation, num_sentences)
