"""Counts sentences with Punkt (Kiss and Strunk 2006) and NLTK's English model, offline.

Punkt knows the ends of English sentences; those of other scripts (。！？।؟) divide a text before it reads it.
"""

import re
from functools import cache
from typing import TYPE_CHECKING

from uniapl.words import num_other_ends, split_at_other_ends

if TYPE_CHECKING:
    from punkt import PunktSentenceTokenizer


def count_sentences(text: str) -> int:
    """Count the sentences of a text."""
    return sum(map(count_english_sentences, split_at_other_ends(text)))


def count_english_sentences(text: str) -> int:
    """Count the sentences of an English text, as IFEval does with any."""
    return sum(1 for _ in _tokenizer().span_tokenize(text))


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text."""
    return [
        piece[start:end]
        for piece in split_at_other_ends(text)
        for start, end in _tokenizer().span_tokenize(piece)
    ]


def max_sentences(text: str) -> int:
    """Return a bound that `count_sentences` never exceeds, at a hundredth of its cost.

    A sentence but the last one ends with a mark.
    """
    return len(re.findall(r"[.?!]", text)) + num_other_ends(text) + 1


@cache
def _tokenizer() -> "PunktSentenceTokenizer":
    # Imported late: the model is 300 kB of Python literals.
    import punkt

    return punkt.PunktSentenceTokenizer(punkt.load_model("english"))
