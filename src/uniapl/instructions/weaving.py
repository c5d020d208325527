"""Puts more into an answer without a sentence of the program's own: with the answer's words and the prompt's.

A policy repeats what its demonstrations repeat. So a missing keyword goes into a sentence that is there, a missing
sentence comes from dividing a longer one, or is the question that the prompt asks; where none of it suffices, nothing
is added.
"""

import random
import re
from collections.abc import Sequence

from uniapl.instructions.edits import STOP_WORDS, longest_words
from uniapl.instructions.sentences import split_sentences
from uniapl.words import whole_word_pattern

_PREPOSITIONS = ("near", "with", "beside", "behind", "without", "by", "like", "under")
"""What may stand between a sentence's own words and a keyword: such a phrase fits behind nearly any noun or verb."""
_MOST_PER_SENTENCE = 2
_DETERMINERS = "the|an?|this|these|those|my|your|our|his|her|its|their|some"
_VERBS = (
    "am|is|are|was|were|has|have|had|do|does|did|can|could|will|would|may|might|must|should|cannot"
)
_AFTER_NOUN = rf"in|on|at|from|with|by|for|into|during|{_VERBS}|that|which|who|when|where|because"
_NOUN_PHRASE = re.compile(
    rf"\b(?:{_DETERMINERS})\s+(?:[a-z]{{3,}}\s+)?(?P<noun>[a-z]{{3,}})(?=[.,;:!?]|\s+(?:{_AFTER_NOUN})\b)",
    re.IGNORECASE,
)
_NAME = re.compile(r"(?<=[a-z,] )(?P<noun>[A-Z][a-z]{2,})\b")
_NO_NOUN = re.compile(r"(?:ly|ing|ed|ous|ful|ive|able|ible|est)$")
_PRONOUNS = "i|you|he|she|it|we|they|this|these|those|there"
_CLAUSES = re.compile(
    rf";\s+|,\s+(?P<word>and|but|so|yet|which)\s+|\s+(?:and|(?P<turn>but))\s+(?=(?:{_PRONOUNS})\b)",
    re.IGNORECASE,
)
_ARE = re.compile(r"(?:are|were|have|do)\b")
_ASKS = re.compile(r"(?:who|whom|whose|what|when|where|which|why|how)\b", re.IGNORECASE)
_LEAST_WORDS, _MOST_WORDS = 3, 30
"""Of a clause that may be a sentence; of a question that is worth repeating."""


def is_noun_like(word: str, prompt: str) -> bool:
    """Return whether a keyword may stand behind an article: its form and its use in the prompt allow it."""
    word = word.strip()
    if word.lower() in STOP_WORDS or _ASKS.fullmatch(word) or _NO_NOUN.search(word.lower()):
        return False
    uses = re.escape(word)
    begins = re.match(rf"\W*{uses}\b", prompt, re.IGNORECASE)
    acts = re.search(rf"\b(?:to|you|i|we|they|not|{_VERBS})\s+{uses}\b", prompt, re.IGNORECASE)
    return not (begins or acts)


def woven(sentences: Sequence[str], words: Sequence[str], prompt: str) -> list[str] | None:
    """Return the sentences with each word added once, behind a noun or at a sentence's end.

    Args:
        sentences: In their order, which stays.
        words: To add; one that is named twice is added twice.
        prompt: Tells names from other words, by its capitals.

    Returns:
        None where there are too few places.
    """
    rng = random.Random("\0".join((*sentences, *words)))
    room = [n for n in range(len(sentences)) for _ in range(_MOST_PER_SENTENCE)]
    if len(words) > len(room):
        return None
    # one in each sentence before a second one in any
    order = sorted(set(room), key=lambda n: rng.random()) * _MOST_PER_SENTENCE
    found = list(sentences)
    for word, number in zip(words, order, strict=False):
        named = _as_the_prompt_writes(word, prompt)
        found[number] = _with_phrase(found[number], f"{rng.choice(_PREPOSITIONS)} {named}", rng)
    return found


def bracketed(text: str, times: int) -> str:
    """Put square brackets around so many words, a template's blanks: nouns first, then names, then long words."""
    candidates = [m["noun"] for pattern in (_NOUN_PHRASE, _NAME) for m in pattern.finditer(text)]
    for word in dict.fromkeys((*candidates, *longest_words(text))):
        if times <= 0:
            break
        text, count = re.subn(rf"(?<![\w\[*<'-]){word}(?![\w\]*'-])", f"[{word}]", text, count=1)
        times -= count
    return text


def divided(sentences: Sequence[str]) -> list[str] | None:
    """Return one sentence more: the first that is two clauses with a conjunction or a semicolon becomes two.

    None where no sentence is.
    """
    for number, sentence in enumerate(sentences):
        for mark in _CLAUSES.finditer(sentence):
            first, second = sentence[: mark.start()], sentence[mark.end() :]
            conjunction = (mark["word"] or mark["turn"] or "").lower()
            if conjunction == "which":
                second = f"{'these' if _ARE.match(second) else 'this'} {second}"
            if _is_clause(first) and _is_clause(second):
                if conjunction in ("but", "so", "yet"):
                    second = f"{conjunction} {second}"
                halves = (f"{first}.", second[:1].upper() + second[1:])
                return [*sentences[:number], *halves, *sentences[number + 1 :]]
    return None


def items(sentences: Sequence[str]) -> list[str]:
    """Return what stands between the commas of the sentences, each as a point of a list."""
    found: list[str] = []
    for sentence in sentences:
        parts = [
            re.sub(r"^(?:and|or|but)\s+", "", part.strip())
            for part in re.split(r"[,;]\s+", sentence.rstrip(".!?"))
        ]
        if all(len(part.split()) >= 2 for part in parts):
            found += [part[:1].upper() + part[1:] + "." for part in parts]
        else:
            found.append(sentence)
    return found


def question(prompt: str) -> str | None:
    """Return the question that a prompt begins with, with its mark; None where it begins with none."""
    first = first_sentence(prompt)
    if first is None:
        return None
    if first.endswith("?"):
        return first
    return f"{first.rstrip('.')}?" if _ASKS.match(first) else None


def first_sentence(prompt: str) -> str | None:
    """Return the first sentence of a prompt, with an end; None for one too short or too long to be said again."""
    lines = prompt.strip().splitlines()
    first = next(iter(split_sentences(lines[0])), "").strip() if lines else ""
    if not _LEAST_WORDS <= len(first.split()) <= _MOST_WORDS:
        return None
    first = first[0].upper() + first[1:]
    return first if first[-1] in ".?!" else f"{first}."


def _with_phrase(sentence: str, phrase: str, rng: random.Random) -> str:
    """Return a sentence with a phrase behind one of its nouns, or before its end."""
    places = [match.end() for match in _NOUN_PHRASE.finditer(sentence)]
    end = re.search(r"[.!?\"')\]]*$", sentence)
    if end is not None and end.start() > 0 and end.start() not in places:
        places.append(end.start())
    place = rng.choice(places)
    return f"{sentence[:place]} {phrase}{sentence[place:]}"


def _as_the_prompt_writes(word: str, prompt: str) -> str:
    """Return a word with an article, or as a name where the prompt has its capital inside a sentence."""
    word = word.strip()
    for use in whole_word_pattern(word).finditer(prompt):
        is_inside = re.search(r"[\w,]\s$", prompt[: use.start()]) is not None
        if is_inside and use[0][0].isupper() and not use[0].isupper():
            return use[0]
    return f"the {word}"


def _is_clause(text: str) -> bool:
    """Return whether a text can stand alone: long enough, with a verb or a pronoun as its subject."""
    words = re.findall(r"[\w'-]+", text.lower())
    if len(words) < _LEAST_WORDS:
        return False
    return (
        re.fullmatch(_PRONOUNS, words[0]) is not None
        or re.search(rf"\b(?:{_VERBS})\b", text.lower()) is not None
    )
