r"""Words, commas and ends of sentences in any script, as a reader counts them.

Chinese and Japanese put no blanks between words: each of their characters counts as one, as word processors count
them. Where the words of Thai, Lao, Khmer or Burmese end, only a dictionary says: a run of their letters is one word
here, and who needs words of them (`uniapl prompts`) asks for none. Signs that stand on a letter (vowels of Hindi and
Arabic, accents that are characters of their own) and joiners belong to the word. On plain English all of this is `\w+`.
"""

import re
import unicodedata

import regex

COMMAS = ",՝،߸፣᠂᠈⸲⸴⹁⹉⹌、꓾꘍꛵︐︑﹐﹑，､𑑍𑑚𖺗𝪇"
"""Every punctuation mark that Unicode names a comma of a script."""

_IDEOGRAPHS = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}ーｰ]"
_BLANKLESS = rf"[{_IDEOGRAPHS}\p{{Line_Break=Complex_Context}}]"
_LETTER = r"[\p{L}\p{N}_]"
_INNER = rf"[{_LETTER}\p{{M}}\u200c\u200d]"
"""What a word goes on with: letters, signs on them, and joiners, which no reader sees."""
_MORE_ENDS = r"\u037e\u0f0d\u0f0e"
"""The Greek question mark and Tibetan shads, which Unicode does not count among the ends of sentences."""
_ENDS = rf"[[\p{{STerm}}{_MORE_ENDS}]--[.?!\u2000-\u206f]]"
"""Marks that end a sentence where English has none of them: 。！？।؟۔։། and their like."""


def _compiled(pattern: str, flags: int = 0) -> "regex.Pattern[str]":
    return regex.compile(pattern, regex.V1 | flags)


_WORD = _compiled(
    rf"[{_IDEOGRAPHS}&&{_LETTER}]\p{{M}}*|[{_LETTER}--{_IDEOGRAPHS}][{_INNER}--{_IDEOGRAPHS}]*"
)
_UNIT = _compiled(
    rf"[{_BLANKLESS}&&{_LETTER}]\p{{M}}*|[{_LETTER}--{_BLANKLESS}][{_INNER}--{_BLANKLESS}]*|[^\s\x1c-\x1f\p{{L}}\p{{N}}_]"
)
_HAS_BLANKLESS = _compiled(rf"[{_BLANKLESS}&&{_LETTER}]")
_DICTIONARY = _compiled(r"\p{Line_Break=Complex_Context}")
# a line of Tibetan verse ends with two shads, and a blank between them
_SENTENCE = _compiled(
    rf".*?(?:{_ENDS}+(?:\s*[\u0f0d\u0f0e])*[\p{{Pe}}\p{{Pf}}\"']*|\Z)", regex.DOTALL
)
_OTHER_END = _compiled(_ENDS)
_ENDED = _compiled(rf"[\p{{STerm}}…{_MORE_ENDS}][\p{{Pe}}\p{{Pf}}\"'*_]*\Z")
_GREEK = _compiled(r"[\p{Greek}&&\p{L}]")
_LATIN = _compiled(r"[\p{Latin}&&\p{L}]")
_COMMA = _compiled(f"[{COMMAS}]")


def composed(text: str) -> str:
    """Return the text in Unicode's composed form (NFC): é is one character, however it was typed."""
    return unicodedata.normalize("NFC", text)


def find_words(text: str) -> list[str]:
    r"""Return the words of a text; of an ASCII text, runs of `\w`."""
    return re.findall(r"\w+", text) if text.isascii() else _WORD.findall(text)


def units(text: str) -> list[str]:
    """Return words and marks, and each character of a script that puts no blanks between words."""
    return re.findall(r"\w+|[^\w\s]", text) if text.isascii() else _UNIT.findall(text)


def num_written_words(text: str) -> int:
    """Count what blanks divide, and each character of a script that puts none between words."""
    pieces = text.split()
    if not has_blankless(text):
        return len(pieces)
    return sum(len(_HAS_BLANKLESS.findall(p)) + bool(_HAS_BLANKLESS.sub("", p)) for p in pieces)


def has_blankless(text: str) -> bool:
    """Return whether a text holds letters of a script that puts no blanks between words."""
    return not text.isascii() and _HAS_BLANKLESS.search(text) is not None


def needs_dictionary(text: str) -> bool:
    """Return whether a text holds letters of Thai and its like, which mark neither words nor, mostly, sentences."""
    return not text.isascii() and _DICTIONARY.search(text) is not None


def is_latin(text: str) -> bool:
    """Return whether most letters of a text are Latin; a text without letters is."""
    return text.isascii() or 2 * len(_LATIN.findall(text)) >= sum(map(str.isalpha, text))


def has_comma(text: str) -> bool:
    """Return whether a text holds a comma of any script."""
    return _COMMA.search(text) is not None


def num_other_ends(text: str) -> int:
    """Count the marks that end sentences of other scripts than English has."""
    return 0 if text.isascii() else len(_OTHER_END.findall(_with_greek_marks(text)))


def split_at_other_ends(text: str) -> list[str]:
    """Cut a text behind the marks that end sentences of other scripts, closing quotes and brackets included."""
    if not num_other_ends(text):
        return [text]
    spans = [found.span() for found in _SENTENCE.finditer(_with_greek_marks(text))]
    return [text[start:end] for start, end in spans if text[start:end].strip()]


def is_ended(text: str) -> bool:
    """Return whether a text ends with a sentence's end in any script, quotes and brackets behind it aside."""
    return _ENDED.search(_with_greek_marks(text.rstrip())) is not None


def _with_greek_marks(text: str) -> str:
    """Return a text of as many characters in which `;` is Unicode's Greek question mark if most letters are Greek.

    NFC makes a `;` of it, and so do keyboards.
    """
    if ";" not in text or 2 * len(_GREEK.findall(text)) <= sum(map(str.isalpha, text)):
        return text
    return text.replace(";", "\u037e")


def whole_word_pattern(word: str) -> "regex.Pattern[str]":
    """Return what finds a word, in either case, where it is no part of a longer one.

    In scripts without blanks there is no telling: a word of theirs is found anywhere, and their letters beside a word
    are no part of it.
    """
    word = composed(word.strip())
    inside = rf"[{_INNER}--{_BLANKLESS}]"
    before = "" if has_blankless(word[0]) else rf"(?<!{inside})"
    last = word.rstrip("\u200c\u200d")[-1:]
    after = r"(?!\p{M})" if has_blankless(last) else rf"(?!{inside})"
    return _compiled(before + regex.escape(word, literal_spaces=True) + after, regex.IGNORECASE)
