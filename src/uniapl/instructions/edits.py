"""Small edits of a text, each for one type of instruction: what a careful editor would do with the least change."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

from uniapl.instructions.letter_case import count_capital_words
from uniapl.instructions.sentences import split_sentences
from uniapl.words import find_words, whole_word_pattern

_LIST_MARK = re.compile(r"^\s*(?:[*\-+•#>]+|\d+[.)])\s+")
_EMPHASIS = re.compile(r"(\*{1,3}|`)(?=\S)([^*`\n]+?)(?<=\S)\1|<<([^<>\n]+)>>")
_WHOLE = re.compile(r"[.!?。！？।؟۔][\"')\]”’»」』）]*$")
_CONJUNCTION = re.compile(r",\s+(and|but|or|so|nor|yet|because|which|who|while|as)\b")
STOP_WORDS = frozenset(
    "about after again also although another because become becomes before being between both "
    "could each every first from have having however into itself like many might more most much "
    "never often other others over really should since some such than that their them then there "
    "these they this those through under until very well were what when where which while will "
    "with within without would your".split()
)
"""Words that are no subject of a text."""


def whole_sentences(text: str) -> list[str]:
    """Return the sentences, without list marks and emphasis; repeated ones once, and none without an end.

    A text that has no end at all is one sentence.
    """
    kept: dict[str, str] = {}
    for line in text.splitlines():
        plain = _EMPHASIS.sub(lambda mark: mark[2] or mark[3], _LIST_MARK.sub("", line))
        for sentence in split_sentences(plain.strip()):
            if re.search(r"[^\W\d_]", sentence):
                kept.setdefault(sentence.lower(), " ".join(sentence.split()))
    whole = [s for s in kept.values() if _WHOLE.search(s)]
    return whole or [s.rstrip(" ,;:-") + "." for s in islice(kept.values(), 1)]


def list_points(text: str) -> list[str]:
    """Return what stands behind the marks of a text's lists, each with an end; repeated ones once."""
    points: dict[str, str] = {}
    for line in text.splitlines():
        point = _LIST_MARK.sub("", line, count=1).strip()
        if _LIST_MARK.match(line) and re.search(r"[^\W\d_]", point):
            plain = _EMPHASIS.sub(lambda mark: mark[2] or mark[3], point).rstrip(" ,;:-")
            points.setdefault(plain.lower(), plain)
    return [p if _WHOLE.search(p) else f"{p}." for p in points.values()]


def cut_back(text: str) -> str | None:
    """Return a text that broke off up to its last whole sentence; None where none is whole."""
    lines = text.rstrip().split("\n")
    while lines:
        sentences = split_sentences(lines[-1])
        while sentences and not (
            _WHOLE.search(sentences[-1]) and re.search(r"[^\W\d_]", sentences[-1])
        ):
            sentences.pop()
        if sentences:
            end = lines[-1].rindex(sentences[-1]) + len(sentences[-1])
            return "\n".join([*lines[:-1], lines[-1][:end]])
        lines.pop()
    return None


def num_distinct_words(text: str) -> int:
    """Count the words that differ: a text in a loop has few."""
    return len(set(find_words(text.lower())))


def without_words(sentences: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the sentences that hold none of the words."""
    if not words:
        return list(sentences)
    patterns = [whole_word_pattern(word) for word in words]
    return [s for s in sentences if not any(pattern.search(s) for pattern in patterns)]


def with_fewer(sentences: Sequence[str], keyword: str, fewer_than: int) -> list[str]:
    """Return the sentences from the first on that together hold the keyword fewer times."""
    kept, count = [], 0
    for sentence in sentences:
        here = sentence.lower().count(keyword.strip().lower())
        if count + here < fewer_than:
            kept.append(sentence)
            count += here
    return kept


def without_commas(text: str) -> str:
    """Drop the commas: those between thousands, those before conjunctions, and the rest."""
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r",(?=\S)", ", ", _CONJUNCTION.sub(r" \1", text))
    return re.sub(r"\s*,", "", text)


def with_capital_words(text: str, at_least: int) -> str:
    """Write the longest words in capitals until there are enough."""
    words = dict.fromkeys(re.findall(r"(?<![\w\[*<'])[A-Za-z]{4,}(?!['\w])", text))
    for word in sorted(words, key=len, reverse=True):
        if count_capital_words(text) >= at_least:
            break
        if not word.isupper():
            text = re.sub(rf"(?<!\w){word}(?!\w)", word.upper(), text, count=1)
    return text


def without_capital_words(text: str, fewer_than: int) -> str:
    """Write words in capitals in the ordinary way, the last ones first, until there are few enough."""
    for word in reversed(list(re.finditer(r"\b[A-Z][A-Z]+\b", text))):
        if count_capital_words(text) < fewer_than:
            break
        text = text[: word.start()] + word[0].capitalize() + text[word.end() :]
    return text


def highlighted(text: str, times: int) -> str:
    """Put asterisks around so many words: the longest of each sentence first."""
    for word in longest_words(text)[:times]:
        text = re.sub(rf"(?<![\w*\[]){word}(?![\w*\]])", f"*{word}*", text, count=1)
    return text


def title_of(text: str) -> str | None:
    """Return a title made of the first words of a text, such as a prompt; None where it has none."""
    first = next(iter(split_sentences(text.strip().splitlines()[0])), "") if text.strip() else ""
    words = re.findall(r"\w+(?:['-]\w+)*", first)[:7]
    return " ".join(word[0].upper() + word[1:] for word in words) or None


def without_last(text: str) -> tuple[str, str] | None:
    """Return a text without its last sentence, and that sentence; None where it is a list's, broken or all there is."""
    lines = text.rstrip().split("\n")
    sentences = split_sentences(lines[-1])
    if _LIST_MARK.match(lines[-1]) or not sentences or not _WHOLE.search(sentences[-1]):
        return None
    last = sentences[-1]
    rest = "\n".join([*lines[:-1], lines[-1][: lines[-1].rindex(last)]]).rstrip()
    return (rest, last) if re.search(r"[^\W\d_]", rest) else None


def dealt(sentences: Sequence[str], num_blocks: int) -> list[list[str]] | None:
    """Divide sentences in order into blocks of nearly equal number; None if there are too few."""
    if len(sentences) < num_blocks:
        return None
    bounds = [len(sentences) * n // num_blocks for n in range(num_blocks + 1)]
    return [list(sentences[a:b]) for a, b in pairwise(bounds)]


def chosen_answer(text: str) -> str | None:
    """Return the fixed answer whose word a text holds; None where it holds none or several."""
    found = set(re.findall(r"\b(?:yes|no|maybe)\b", text.lower()))
    return f"My answer is {found.pop()}." if len(found) == 1 else None


def longest_words(text: str) -> list[str]:
    """Return words worth an emphasis: of each sentence the longest, then the next ones."""
    return list(dict.fromkeys(_by_rank(text)))


def _by_rank(text: str) -> Iterator[str]:
    ranked = [
        sorted(
            (w for w in re.findall(r"[A-Za-z]{4,}", s) if w.lower() not in STOP_WORDS),
            key=len,
            reverse=True,
        )
        for s in split_sentences(text)
    ]
    for rank in range(max(map(len, ranked), default=0)):
        yield from (words[rank] for words in ranked if rank < len(words))
