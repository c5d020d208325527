"""Instructions that a completion already follows: human text becomes verified demonstrations.

Each type has a function that reads kwargs off a completion, or finds that the type would say nothing
about it: bounds lie close to what is there, and what any text would satisfy is not asked for. Counts are those of
the text's own script, and where IFEval's reading, made for English, would deny what is there, it is not asked for.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from uniapl.instructions import conflicts as types
from uniapl.instructions.detection import detect
from uniapl.instructions.drawing import NOUNS, suits
from uniapl.instructions.formats import CONSTRAINED_RESPONSES
from uniapl.instructions.letter_case import count_capital_words
from uniapl.instructions.phrasings import LANGUAGE_NAMES
from uniapl.instructions.sentences import count_sentences
from uniapl.instructions.verdicts import follows
from uniapl.words import (
    composed,
    find_words,
    has_blankless,
    needs_dictionary,
    split_at_other_ends,
)

Kwargs = dict[str, Any]
Derive = Callable[[random.Random, str, str], Kwargs | None]
"""Takes random numbers, prompt and completion; None where the type does not fit the completion."""

_MIN_WORDS = 20
"""A shorter completion lacks commas, words or capitals by being short, not by choice."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def derive_instructions(prompt: str, completion: str, rng: random.Random) -> dict[str, Kwargs]:
    """Return the instructions, by type, that the completion follows; some may conflict.

    The checkers have confirmed each of them, strictly, as a reward reads it and as IFEval does.
    """
    found: dict[str, Kwargs] = {}
    read = composed(completion)
    for instruction_id, derive in _DERIVATIONS.items():
        if not suits(instruction_id, prompt) or not _can_be_counted(instruction_id, read):
            continue
        kwargs = derive(rng, composed(prompt), read)
        if kwargs is not None and all(
            follows(instruction_id, kwargs, completion, official=official)
            for official in (False, True)
        ):
            found[instruction_id] = kwargs
    return found


def _can_be_counted(instruction_id: str, completion: str) -> bool:
    """Return whether a completion's script says where its words and sentences end, if that is asked."""
    if instruction_id == types.WORDS:
        return not has_blankless(completion)
    return instruction_id != types.SENTENCES or not needs_dictionary(completion)


def _num_words(text: str) -> int:
    return len(find_words(text))


def _near(rng: random.Random, count: int, names: tuple[str, str], least: int) -> Kwargs | None:
    """Bound a count from below or above, at most a third away from it."""
    name, relation = names
    if count < least:
        return None
    room = max(1, count // 3)
    if rng.random() < 0.5:
        return {name: count - rng.randrange(room), relation: "at least"}
    return {name: count + rng.randint(1, room), relation: "less than"}


def _if(is_there: Callable[[str], bool]) -> Derive:
    return lambda _rng, _prompt, completion: {} if is_there(completion) else None


def _counted(name: str, pattern: str, least: int = 1) -> Derive:
    def derive(_rng: random.Random, _prompt: str, completion: str) -> Kwargs | None:
        count = len(re.findall(pattern, completion, re.MULTILINE))
        return {name: count} if count >= least else None

    return derive


def _own_words(prompt: str, completion: str) -> list[str]:
    """Return longer words that the completion adds to the prompt, most frequent first."""
    given = set(find_words(prompt.lower()))
    words = Counter(w.lower() for w in find_words(completion) if re.fullmatch("[A-Za-z]{5,12}", w))
    return [word for word, _ in words.most_common() if word not in given]


def _existence(rng: random.Random, prompt: str, completion: str) -> Kwargs | None:
    words = _own_words(prompt, completion)
    if len(words) < 4:
        return None
    return {"keywords": rng.sample(words, rng.randint(2, 4))}


def _forbidden(rng: random.Random, prompt: str, completion: str) -> Kwargs | None:
    # a text in another language has none of the nouns, whoever wrote it
    if _num_words(completion) < _MIN_WORDS or detect(completion.lower()) != "en":
        return None
    present = set(find_words(completion.lower()))
    own = sorted({w for w in find_words(prompt) if re.fullmatch("[a-z]{5,10}", w)} - present)
    words = rng.sample(own, min(len(own), 2)) + rng.sample(NOUNS, 2)
    return {"forbidden_words": [word for word in words if word not in present][:3]}


def _frequency(rng: random.Random, prompt: str, completion: str) -> Kwargs | None:
    text = completion.lower()
    repeated = [word for word in _own_words(prompt, completion) if text.count(word) > 1]
    if not repeated:
        return None
    word = rng.choice(repeated)
    bound = _near(rng, text.count(word), ("frequency", "relation"), 2)
    return bound and {"keyword": word, **bound}


def _letter(rng: random.Random, _: str, completion: str) -> Kwargs | None:
    if _num_words(completion) < _MIN_WORDS:
        return None
    letter = rng.choice(_LETTERS)
    bound = _near(rng, completion.lower().count(letter), ("let_frequency", "let_relation"), 2)
    return bound and {"letter": letter, **bound}


def _language(_: random.Random, prompt: str, completion: str) -> Kwargs | None:
    language = detect(completion)
    # Short texts are often misread; English answers to English prompts need no instruction.
    if language not in LANGUAGE_NAMES or _num_words(completion) < _MIN_WORDS // 2:
        return None
    return {"language": language}


def _nth_paragraph(rng: random.Random, _: str, completion: str) -> Kwargs | None:
    paragraphs = completion.split("\n\n")
    if len(paragraphs) < 2 or not all(part.strip() for part in paragraphs):
        return None
    place = rng.randrange(len(paragraphs))
    first = re.match(r"\s*([A-Za-z]+)\b", paragraphs[place])
    if first is None:
        return None
    return {
        "num_paragraphs": len(paragraphs),
        "nth_paragraph": place + 1,
        "first_word": first[1].lower(),
    }


def _paragraphs(_: random.Random, __: str, completion: str) -> Kwargs | None:
    parts = [part for part in completion.split("***") if part.strip()]
    return {"num_paragraphs": len(parts)} if len(parts) > 1 else None


def _end(_: random.Random, __: str, completion: str) -> Kwargs | None:
    last = re.split(r"(?<=[.!?])\s+", split_at_other_ends(completion.strip())[-1])[-1].strip()
    if not 3 <= len(last.split()) <= 8 or _num_words(completion) < _MIN_WORDS or '"' in last:
        return None
    return {"end_phrase": last}


def _postscript(_: random.Random, __: str, completion: str) -> Kwargs | None:
    found = [marker for marker in ("P.P.S", "P.S.") if marker in completion]
    return {"postscript_marker": found[0]} if found else None


def _sections(_: random.Random, __: str, completion: str) -> Kwargs | None:
    names = Counter(
        re.findall(r"^\W*(Section|SECTION|Part|PART|Chapter|Day|Step) \d", completion, re.M)
    )
    if not names or names.most_common(1)[0][1] < 2:
        return None
    name, count = names.most_common(1)[0]
    return {"section_spliter": name, "num_sections": count}


def _repeat(_: random.Random, prompt: str, completion: str) -> Kwargs | None:
    return {"prompt_to_repeat": prompt} if completion.startswith(prompt) else None


def _bounded(count: Callable[[str], int], names: tuple[str, str], least: int) -> Derive:
    return lambda rng, _, completion: _near(rng, count(completion), names, least)


_DERIVATIONS: Mapping[str, Derive] = {
    types.CAPITAL_WORDS: _bounded(
        count_capital_words, ("capital_frequency", "capital_relation"), 2
    ),
    types.CAPITAL: _if(lambda text: len(text) > 10),
    types.LOWERCASE: _if(lambda text: len(text) > 10),
    types.REPEAT: _repeat,
    types.TWO: _if(lambda text: "******" in text),
    types.PLACEHOLDERS: _counted("num_placeholders", r"\[[^\]\n]+\]"),
    types.POSTSCRIPT: _postscript,
    types.CONSTRAINED: _if(lambda text: text.strip() in CONSTRAINED_RESPONSES),
    types.JSON: _if(lambda text: "{" in text),
    types.SECTIONS: _sections,
    types.BULLETS: _counted("num_bullets", r"^\s*(?:\*[^*]|-).*$", 2),
    types.HIGHLIGHTS: _counted("num_highlights", r"\*[^\s*][^\n*]*\*"),
    types.TITLE: _if(lambda text: "<<" in text),
    types.EXISTENCE: _existence,
    types.FORBIDDEN: _forbidden,
    types.FREQUENCY: _frequency,
    types.LETTER: _letter,
    types.LANGUAGE: _language,
    types.NTH_PARAGRAPH: _nth_paragraph,
    types.PARAGRAPHS: _paragraphs,
    types.SENTENCES: _bounded(count_sentences, ("num_sentences", "relation"), 2),
    types.WORDS: _bounded(_num_words, ("num_words", "relation"), 10),
    types.NO_COMMA: _if(lambda text: _num_words(text) >= _MIN_WORDS),
    types.END: _end,
    types.QUOTATION: _if(lambda text: len(text) > 2),
}
"""Every derivation is confirmed by the type's checker, so these may be generous."""
