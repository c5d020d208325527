"""Detects the language of a text with langdetect's profiles, without a network and without chance.

langdetect (a port of Nakatani Shuyo's detector) draws n-grams of a text at random until one
language stands out, seven times over; two runs may disagree. Here every n-gram counts, which is
where that sampling tends to. The reading of the text (what is a letter, which n-grams count) is
langdetect's.
"""

import importlib.resources
import json
import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

_MAX_CHARACTERS = 10_000
_SMOOTHING = 0.5 / 10_000
_URL = re.compile(r"https?://[-_.?&~;+=/#0-9A-Za-z]{1,2076}")
_MAIL = re.compile(r"[-_.0-9A-Za-z]{1,64}@[-_0-9A-Za-z]{1,255}[-_.0-9A-Za-z]{1,255}")


@lru_cache(maxsize=256)
def detect(text: str) -> str | None:
    """Return the code of the likeliest language; None where the text holds nothing to go by."""
    ngrams = _ngrams(text)
    if not ngrams:
        return None
    profiles = _profiles()
    likelihood = profiles.log_shares.take(ngrams, axis=0).sum(axis=0, dtype="float64")
    return profiles.languages[int(likelihood.argmax())]


class _Profiles(NamedTuple):
    """What langdetect knows about its languages."""

    languages: list[str]
    rows: dict[str, int]
    """The row of each n-gram of one to three characters; a blank marks the edge of a word."""
    log_shares: "np.ndarray"
    """[n-gram, language]: log of the n-gram's smoothed share of the n-grams of its length."""


@cache
def _profiles() -> _Profiles:
    import numpy as np

    # Sorted: the file system's own order would decide ties.
    folder = importlib.resources.files("langdetect") / "profiles"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    profiles = [json.loads(file.read_text("utf-8")) for file in files]
    rows: dict[str, int] = {}
    columns = []
    for profile in profiles:
        counts = {ngram: count for ngram, count in profile["freq"].items() if len(ngram) <= 3}
        shares = [count / profile["n_words"][len(ngram) - 1] for ngram, count in counts.items()]
        columns.append(([rows.setdefault(ngram, len(rows)) for ngram in counts], shares))
    log_shares = np.full((len(rows), len(columns)), np.log(_SMOOTHING), dtype=np.float32)
    for column, (places, shares) in enumerate(columns):
        log_shares[places, column] = np.log(np.array(shares) + _SMOOTHING)
    return _Profiles([profile["name"] for profile in profiles], rows, log_shares)


class _Letters(dict[int, str]):
    """langdetect's spelling of each character (a blank for what is no letter), filled on demand."""

    def __missing__(self, code: int) -> str:
        from langdetect.utils.ngram import NGram

        letter = self[code] = NGram.normalize(chr(code))
        return letter


_LETTERS = _Letters()


def _ngrams(text: str) -> list[int]:
    """Return the rows of the known n-grams of a text."""
    from langdetect.utils.ngram import NGram

    text = _MAIL.sub(" ", _URL.sub(" ", text))
    text = NGram.normalize_vi(text)[:_MAX_CHARACTERS]
    num_latin = len(re.findall(r"[A-z]", text))
    num_others = len(re.findall(r"[^\0-\u02ff]", text))
    if num_latin * 2 < num_others:
        text = re.sub(r"[A-z]", "", text)
    *words, last = text.translate(_LETTERS).split(" ")
    ngrams = [row for word in words if word for row in _ngrams_of_word(word + " ")]
    # No edge behind the last word: only a character that follows would show that it has ended.
    return ngrams + list(_ngrams_of_word(last))


def _ngrams_of_word(word: str) -> tuple[int, ...]:
    # Scripts without blanks make "words" of thousands of letters, not worth remembering.
    return _ngrams_of_short_word(word) if len(word) <= 20 else _look_up(word)


@lru_cache(maxsize=20_000)
def _ngrams_of_short_word(word: str) -> tuple[int, ...]:
    return _look_up(word)


def _look_up(word: str) -> tuple[int, ...]:
    """Return the rows of a word's known n-grams; none ends in the second of two capitals."""
    rows = _profiles().rows
    padded = " " + word
    found = []
    for end in range(2, len(padded) + 1):
        if padded[end - 2].isupper() and padded[end - 1].isupper():
            continue
        for start in range(end - 1, max(end - 4, -1), -1):
            ngram = padded[start:end]
            if ngram != " " and ngram in rows:
                found.append(rows[ngram])
    return tuple(found)
