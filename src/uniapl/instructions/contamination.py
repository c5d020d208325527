"""Finds texts that share wording with a benchmark, so that nobody trains on its prompts."""

from collections.abc import Iterable

from uniapl.words import composed, units

SHORTEST = 4
"""Words (characters, of Chinese): a text of fewer counts as an overlap only if it is a whole benchmark prompt."""


class Overlaps:
    """The word n-grams of benchmark texts; case and punctuation aside."""

    def __init__(self, texts: Iterable[str], size: int = 8) -> None:
        self.size = size
        self._ngrams: set[tuple[str, ...]] = set()
        for text in texts:
            words = _words(text)
            self._ngrams.add(tuple(words))
            for length in range(min(SHORTEST, size), size + 1):
                self._ngrams.update(_ngrams(words, length))

    def __contains__(self, text: str) -> bool:
        """Whether so many words in a row are shared; of a shorter text, all its words in a row."""
        words = _words(text)
        if len(words) < self.size:
            return tuple(words) in self._ngrams
        return any(ngram in self._ngrams for ngram in _ngrams(words, self.size))


def _words(text: str) -> list[str]:
    return [unit for unit in units(composed(text).lower()) if unit[0].isalnum() or unit[0] == "_"]


def _ngrams(words: list[str], size: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(size)), strict=False)
