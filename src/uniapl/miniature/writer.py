"""The expert: writes a text for a task from the grammar and follows its instructions.

It plans a text (how many sentences, which words in them, which layout), drafts it, and drafts again
until its own counts are right. It knows nothing of the checkers, so they can be tested against it.
"""

import random
import re
from collections import Counter
from dataclasses import dataclass, field

from uniapl.miniature.grammar import Topic, find_phrase, sample_sentence, sample_title
from uniapl.miniature.tasks import Instruction, Task

_DRAFTS = 400
_WORDS_PER_SENTENCE = 8
_WORD = re.compile(r"\w+")


@dataclass(slots=True)
class Plan:
    """What the instructions ask of a text, by what it means for the writer."""

    at_least_words: int = 0
    fewer_words_than: int = 10**6
    commas: bool = True
    required: list[str] = field(default_factory=list[str])
    """One entry per occurrence, each in a sentence of its own."""
    forbidden: set[str] = field(default_factory=set[str])
    """Lower-case words."""
    bullets: int = 0
    paragraphs: int = 1
    highlights: int = 0
    title: bool = False
    quoted: bool = False
    closing: str = ""
    postscript: str = ""


def write(rng: random.Random, task: Task, num_sentences: int) -> str:
    """Write a completion of `num_sentences` sentences, or as many as the instructions need."""
    plan = make_plan(task.instructions)
    text = ""
    for _ in range(_DRAFTS):
        text = _draft(rng, task.topic, plan, num_sentences)
        if keeps_counts(text, plan):
            break
    return text


def make_plan(instructions: tuple[Instruction, ...]) -> Plan:
    """Translate instructions into a plan.

    Raises:
        ValueError: The miniature has no such instruction.
    """
    plan = Plan()
    for instruction in instructions:
        match instruction.id, dict(instruction.kwargs):
            case "length_constraints:number_words", {"relation": "at least", "num_words": words}:
                plan.at_least_words = words
            case "length_constraints:number_words", {"num_words": words}:
                plan.fewer_words_than = words
            case "length_constraints:number_paragraphs", {"num_paragraphs": number}:
                plan.paragraphs = number
            case "punctuation:no_comma", _:
                plan.commas = False
            case "keywords:existence", {"keywords": words}:
                plan.required += words
            case "keywords:frequency", {"keyword": word, "frequency": number}:
                plan.required += [word] * number
            case "keywords:forbidden_words", {"forbidden_words": words}:
                plan.forbidden |= {word.lower() for word in words}
            case "startend:end_checker", {"end_phrase": sentence}:
                plan.closing = sentence
            case "startend:quotation", _:
                plan.quoted = True
            case "detectable_format:number_bullet_lists", {"num_bullets": number}:
                plan.bullets = number
            case "detectable_format:number_highlighted_sections", {"num_highlights": number}:
                plan.highlights = number
            case "detectable_format:title", _:
                plan.title = True
            case "detectable_content:postscript", {"postscript_marker": marker}:
                plan.postscript = marker
            case _:
                raise ValueError(f"unknown instruction: {instruction}")
    return plan


def keeps_counts(text: str, plan: Plan) -> bool:
    """Whether a draft has the words and highlights that were planned; some tasks are too tight."""
    words = _words(text)
    has = Counter(words)
    return (
        plan.at_least_words <= len(words) < plan.fewer_words_than
        and all(has[word] >= number for word, number in Counter(plan.required).items())
        and text.count("*") >= 2 * plan.highlights
    )


def _draft(rng: random.Random, topic: Topic, plan: Plan, num_sentences: int) -> str:
    sentences = _body(rng, topic, plan, num_sentences)
    for index in range(min(plan.highlights, len(sentences))):
        if phrase := find_phrase(sentences[index], topic):
            start, end = phrase.span()
            text = sentences[index]
            sentences[index] = f"{text[:start]}*{text[start:end]}*{text[end:]}"
    rng.shuffle(sentences)
    text = _lay_out(sentences, plan)
    if plan.title:
        text = f"<<{_clean(rng, topic, plan, title=True)}>>\n{text}"
    if plan.postscript:
        text = f"{text}\n{plan.postscript} {_clean(rng, topic, plan)}"
    return f'"{text}"' if plan.quoted else text


def _body(rng: random.Random, topic: Topic, plan: Plan, num_sentences: int) -> list[str]:
    number = plan.bullets or max(
        min(num_sentences, plan.fewer_words_than // _WORDS_PER_SENTENCE),
        len(plan.required),
        plan.highlights,
        plan.paragraphs - bool(plan.closing),
    )
    words = plan.required + [""] * max(0, number - len(plan.required))
    if plan.bullets:
        # More words than lines: only the first ones get a line of their own; a redraft may mend it.
        words = rng.sample(words, k=len(words))[:number]
    sentences: list[str] = []
    for word in words:
        sentences.append(_clean(rng, topic, plan, prefer=word))
    while not plan.bullets and _count_words(sentences) < plan.at_least_words:
        sentences.append(_clean(rng, topic, plan))
    return sentences


def _clean(
    rng: random.Random, topic: Topic, plan: Plan, *, prefer: str = "", title: bool = False
) -> str:
    """Draw a sentence or title without forbidden words; as long or short as the plan wants it."""
    candidates: list[str] = []
    wanted = 3 if plan.fewer_words_than < 10**6 or (plan.bullets and plan.at_least_words) else 1
    while len(candidates) < wanted:
        text = (
            sample_title(rng, topic)
            if title
            else sample_sentence(rng, topic, prefer=prefer, commas=plan.commas)
        )
        words = _words(text)
        if plan.forbidden.isdisjoint(words) and (not prefer or prefer in words):
            candidates.append(text)
    return (max if plan.at_least_words else min)(candidates, key=len)


def _lay_out(sentences: list[str], plan: Plan) -> str:
    if plan.bullets:
        lines = [f"* {sentence}" for sentence in sentences]
        return "\n".join([*lines, plan.closing] if plan.closing else lines)
    if plan.closing:
        sentences = [*sentences, plan.closing]
    size, rest = divmod(len(sentences), plan.paragraphs)
    paragraphs: list[str] = []
    start = 0
    for index in range(plan.paragraphs):
        end = start + size + (index < rest)
        paragraphs.append(" ".join(sentences[start:end]))
        start = end
    return "\n***\n".join(paragraphs)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _count_words(sentences: list[str]) -> int:
    return sum(len(_words(sentence)) for sentence in sentences)
