"""Prompts of the miniature: a topic and instructions under IFEval's ids and arguments.

Only instructions that need neither language detection nor sentence splitting. Each id has one
prompt text; `CONFLICTS` lists the pairs that one completion cannot or should not answer together.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from uniapl.miniature.grammar import CLOSINGS, TOPICS, Topic

LEADS = ("Write about the {topic}.", "Tell me about the {topic}.", "Describe the {topic}.")
"""How a prompt begins."""

COMMON_WORDS = ("we", "they", "every", "some", "many", "there", "and", "are", "is")
"""Words of every topic that an instruction may forbid; the grammar can do without any one."""

TEXTS: dict[str, str] = {
    "length_constraints:number_words": "Use {relation} {num_words} words.",
    "length_constraints:number_paragraphs": (
        "Write exactly {num_paragraphs} paragraphs separated by ***."
    ),
    "punctuation:no_comma": "Do not use any commas.",
    "keywords:existence": "Words to include: {keywords}.",
    "keywords:forbidden_words": "Words to avoid: {forbidden_words}.",
    "keywords:frequency": "Use the word {keyword} {relation} {frequency} times.",
    "startend:end_checker": "End with this sentence: {end_phrase}",
    "startend:quotation": "Wrap everything in double quotes.",
    "detectable_format:number_bullet_lists": "Use exactly {num_bullets} bullet points.",
    "detectable_format:number_highlighted_sections": (
        "Highlight at least {num_highlights} parts with *asterisks*."
    ),
    "detectable_format:title": "Add a title inside <<double angles>>.",
    "detectable_content:postscript": "Add a postscript that starts with {postscript_marker}",
}
"""The prompt text of every instruction; `{name}` is an argument of the checker."""

CONFLICTS: frozenset[frozenset[str]] = frozenset(
    frozenset(pair)
    for pair in (
        *combinations(
            (
                "detectable_format:number_bullet_lists",
                "detectable_format:number_highlighted_sections",
                "length_constraints:number_paragraphs",
            ),
            2,
        ),  # all three write asterisks
        ("startend:end_checker", "detectable_content:postscript"),  # both want the last line
        # The opening quotation mark would hide the first bullet.
        ("startend:quotation", "detectable_format:number_bullet_lists"),
    )
)
"""Pairs of ids that never meet in a prompt; an id never meets itself either."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One thing a completion must do, as IFEval writes it."""

    id: str
    kwargs: Mapping[str, Any]

    @property
    def text(self) -> str:
        """What the prompt says."""
        values = {
            name: " and ".join(value) if isinstance(value, list) else value
            for name, value in self.kwargs.items()
        }
        return TEXTS[self.id].format(**values)


@dataclass(frozen=True, slots=True)
class Task:
    """A topic to write about, and how."""

    topic: Topic
    lead: str
    instructions: tuple[Instruction, ...]

    @property
    def prompt(self) -> str:
        """The user's message."""
        parts = [self.lead.format(topic=self.topic.name)]
        return " ".join(parts + [instruction.text for instruction in self.instructions])


def sample_task(rng: random.Random, num_instructions: int) -> Task:
    """Draw a topic and that many instructions that go together, in random order.

    No word is named twice in a prompt, so a required word is never a forbidden one.
    """
    topic = rng.choice(tuple(TOPICS.values()))
    words = rng.sample(topic.words(), k=8)
    ids: list[str] = []
    for candidate in rng.sample(tuple(TEXTS), k=len(TEXTS)):
        if len(ids) == num_instructions:
            break
        if all(frozenset((candidate, other)) not in CONFLICTS for other in ids):
            ids.append(candidate)
    instructions = tuple(Instruction(name, _ARGUMENTS[name](rng, words)) for name in ids)
    return Task(topic, rng.choice(LEADS), instructions)


def _number_words(rng: random.Random, words: list[str]) -> dict[str, Any]:
    if rng.random() < 0.5:
        return {"relation": "at least", "num_words": rng.choice((16, 20, 24, 28, 32))}
    return {"relation": "less than", "num_words": rng.choice((16, 20, 24))}


def _keywords(rng: random.Random, words: list[str]) -> dict[str, Any]:
    return {"keywords": [words.pop() for _ in range(rng.choice((1, 1, 2)))]}


def _forbidden_words(rng: random.Random, words: list[str]) -> dict[str, Any]:
    return {"forbidden_words": [rng.choice(COMMON_WORDS) if rng.random() < 0.6 else words.pop()]}


def _frequency(rng: random.Random, words: list[str]) -> dict[str, Any]:
    return {"relation": "at least", "keyword": words.pop(), "frequency": 2}


_ARGUMENTS: dict[str, Callable[[random.Random, list[str]], dict[str, Any]]] = {
    "length_constraints:number_words": _number_words,
    "length_constraints:number_paragraphs": lambda rng, _: {"num_paragraphs": rng.choice((2, 3))},
    "punctuation:no_comma": lambda rng, _: {},
    "keywords:existence": _keywords,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:frequency": _frequency,
    "startend:end_checker": lambda rng, _: {"end_phrase": rng.choice(CLOSINGS)},
    "startend:quotation": lambda rng, _: {},
    "detectable_format:number_bullet_lists": lambda rng, _: {"num_bullets": rng.choice((2, 3))},
    "detectable_format:number_highlighted_sections": lambda rng, _: {
        "num_highlights": rng.choice((1, 2))
    },
    "detectable_format:title": lambda rng, _: {},
    "detectable_content:postscript": lambda rng, _: {"postscript_marker": "P.S."},
}
