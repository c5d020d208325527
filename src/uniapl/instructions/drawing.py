"""Draws the kwargs of an instruction for a seed prompt, in ranges that a person could still follow.

Words to use or to avoid come from the seed prompt and from a list of ordinary nouns.
"""

import random
import re
from collections.abc import Callable, Mapping
from typing import Any

from uniapl.instructions import conflicts as types
from uniapl.instructions.phrasings import LANGUAGE_NAMES
from uniapl.words import composed, find_words, is_latin

NOUNS = tuple(
    "anchor autumn balance barrel bridge candle canvas carpet castle cherry circle copper corner cotton "
    "desert drawer engine fabric feather forest garden harbor hammer helmet island jacket jungle kettle "
    "ladder lantern lemon magnet marble market meadow mirror needle orchard oyster palace pebble pencil "
    "pepper pillow planet pocket puzzle rabbit ribbon river rocket saddle shadow signal silver spider "
    "stable summit tunnel turtle valley velvet village violin walnut willow window winter wizard yellow"
    "".split()
)
"""Words for keywords; none is part of another one."""

END_PHRASES = (
    "I hope this was of use.",
    "That is all for today.",
    "Tell me what you would change.",
    "And so it goes.",
    "What do you think about it?",
    "More on this another time.",
    "Let us leave it there.",
    "Feel free to ask again.",
)

_COMMON_LETTERS = "aehinorst"
_RARE_LETTERS = "bfgjkpqvwxyz"
_YES_NO = re.compile(
    r"(is|are|am|was|were|do|does|did|can|could|should|would|will|has|have|had|may|might|must)\b",
    re.IGNORECASE,
)

_OF_LATIN_TEXT = {
    types.CAPITAL_WORDS,
    types.EXISTENCE,
    types.FORBIDDEN,
    types.FREQUENCY,
    types.LETTER,
    types.NTH_PARAGRAPH,
    types.SENTENCES,
    types.WORDS,
}
"""Types whose words and counts are drawn for answers in Latin letters."""

Kwargs = dict[str, Any]
Draw = Callable[[random.Random, str], Kwargs]


def suits(instruction_id: str, seed: str) -> bool:
    """Return whether a type makes sense for a seed prompt."""
    if instruction_id == types.CONSTRAINED:
        return (
            bool(_YES_NO.match(seed.strip())) and seed.strip().endswith("?") and " or " not in seed
        )
    if instruction_id == types.REPEAT:
        # the whole has to be copied, and "..." or *** in it would count as the answer's own
        return len(seed) <= 200 and "\n" not in seed and not set("*<>[]{}'\"") & set(seed)
    return True


def can_draw(instruction_id: str, seed: str) -> bool:
    """Return whether kwargs can be drawn that make sense for an answer in the seed's script."""
    return instruction_id not in _OF_LATIN_TEXT or is_latin(seed)


def draw_kwargs(instruction_id: str, seed: str, rng: random.Random) -> Kwargs:
    """Draw the kwargs of one instruction."""
    draw = _DRAWS.get(instruction_id)
    return draw(rng, seed) if draw else {}


def _words(rng: random.Random, seed: str, count: int) -> list[str]:
    """Return so many different words, now and then one of the seed's own."""
    found = find_words(composed(seed))
    own = sorted({word.lower() for word in found if re.fullmatch("[A-Za-z]{5,10}", word)})
    words: list[str] = rng.sample(NOUNS, count)
    if own and rng.random() < 0.5:
        words[0] = rng.choice(own)
    return list(dict.fromkeys(words))


def _bound(count: str, relation: str, enough: range, fewer: range) -> Draw:
    def draw(rng: random.Random, _: str) -> Kwargs:
        if rng.random() < 0.5:
            return {count: rng.choice(enough), relation: "at least"}
        return {count: rng.choice(fewer), relation: "less than"}

    return draw


def _count(name: str, counts: range) -> Draw:
    return lambda rng, _: {name: rng.choice(counts)}


def _choice(name: str, options: tuple[str, ...]) -> Draw:
    return lambda rng, _: {name: rng.choice(options)}


def _frequency(rng: random.Random, seed: str) -> Kwargs:
    (keyword,) = _words(rng, seed, 1)
    count = rng.randint(2, 5)
    return {
        "keyword": keyword,
        "frequency": count,
        "relation": rng.choice(("at least", "less than")),
    }


def _letter_frequency(rng: random.Random, _: str) -> Kwargs:
    # a common letter cannot well be rare, nor a rare one common
    if rng.random() < 0.5:
        letter, count, relation = rng.choice(_COMMON_LETTERS), rng.randint(5, 30), "at least"
    else:
        letter, count, relation = rng.choice(_RARE_LETTERS), rng.randint(3, 8), "less than"
    return {"letter": letter, "let_frequency": count, "let_relation": relation}


def _nth_paragraph(rng: random.Random, _: str) -> Kwargs:
    count = rng.randint(2, 5)
    return {
        "num_paragraphs": count,
        "nth_paragraph": rng.randint(1, count),
        "first_word": rng.choice(NOUNS),
    }


_DRAWS: Mapping[str, Draw] = {
    types.CAPITAL_WORDS: _bound(
        "capital_frequency", "capital_relation", range(2, 11), range(3, 16)
    ),
    types.REPEAT: lambda _, seed: {"prompt_to_repeat": seed},
    types.PLACEHOLDERS: _count("num_placeholders", range(1, 7)),
    types.POSTSCRIPT: _choice("postscript_marker", ("P.S.", "P.P.S")),
    types.SECTIONS: lambda rng, _: {
        "section_spliter": rng.choice(("Section", "SECTION", "Part", "PART", "Chapter")),
        "num_sections": rng.randint(2, 5),
    },
    types.BULLETS: _count("num_bullets", range(2, 8)),
    types.HIGHLIGHTS: _count("num_highlights", range(1, 6)),
    types.EXISTENCE: lambda rng, seed: {"keywords": _words(rng, seed, rng.randint(2, 4))},
    types.FORBIDDEN: lambda rng, seed: {"forbidden_words": _words(rng, seed, rng.randint(2, 4))},
    types.FREQUENCY: _frequency,
    types.LETTER: _letter_frequency,
    types.LANGUAGE: _choice("language", tuple(LANGUAGE_NAMES)),
    types.NTH_PARAGRAPH: _nth_paragraph,
    types.PARAGRAPHS: _count("num_paragraphs", range(2, 6)),
    types.SENTENCES: _bound("num_sentences", "relation", range(3, 16), range(4, 13)),
    types.WORDS: _bound("num_words", "relation", range(40, 301, 10), range(40, 201, 10)),
    types.END: _choice("end_phrase", END_PHRASES),
}
