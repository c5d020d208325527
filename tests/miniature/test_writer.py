"""The expert follows what it is asked, and its tasks make sense together."""

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniapl.instructions import follows, strict, validate
from uniapl.miniature.grammar import (
    TOPICS,
    find_phrase,
    is_sentence,
    is_title,
    sample_sentence,
    sample_title,
)
from uniapl.miniature.metrics import fluency
from uniapl.miniature.tasks import CONFLICTS, TEXTS, Instruction, Task, sample_task
from uniapl.miniature.writer import keeps_counts, make_plan, write

SEA = "Many gulls are calm."
CASES = {
    "length_constraints:number_words": [
        ({"relation": "at least", "num_words": 4}, "Use at least 4 words.", SEA, "Many gulls."),
        ({"relation": "less than", "num_words": 4}, "Use less than 4 words.", "I sway.", SEA),
    ],
    "length_constraints:number_paragraphs": [
        (
            {"num_paragraphs": 2},
            "Write exactly 2 paragraphs separated by ***.",
            f"{SEA}\n***\n{SEA}",
            SEA,
        )
    ],
    "punctuation:no_comma": [({}, "Do not use any commas.", SEA, "At night, I love the sea.")],
    "keywords:existence": [
        ({"keywords": ["gulls", "calm"]}, "Words to include: gulls and calm.", SEA, "Many gulls.")
    ],
    "keywords:forbidden_words": [
        (
            {"forbidden_words": ["they", "are"]},
            "Words to avoid: they and are.",
            "I love the sea.",
            SEA,
        )
    ],
    "keywords:frequency": [
        (
            {"relation": "at least", "keyword": "gulls", "frequency": 2},
            "Use the word gulls at least 2 times.",
            f"{SEA} {SEA}",
            SEA,
        )
    ],
    "startend:end_checker": [
        (
            {"end_phrase": "It never gets old."},
            "End with this sentence: It never gets old.",
            f"{SEA} It never gets old.",
            f"It never gets old. {SEA}",
        )
    ],
    "startend:quotation": [({}, "Wrap everything in double quotes.", f'"{SEA}"', f'"{SEA}')],
    "detectable_format:number_bullet_lists": [
        ({"num_bullets": 2}, "Use exactly 2 bullet points.", f"* {SEA}\n* {SEA}", f"* {SEA}")
    ],
    "detectable_format:number_highlighted_sections": [
        (
            {"num_highlights": 2},
            "Highlight at least 2 parts with *asterisks*.",
            "*Many gulls* are calm. I like *the gulls*.",
            "*Many gulls* are calm.",
        )
    ],
    "detectable_format:title": [
        ({}, "Add a title inside <<double angles>>.", f"<<The sea>>\n{SEA}", SEA)
    ],
    "detectable_content:postscript": [
        (
            {"postscript_marker": "P.S."},
            "Add a postscript that starts with P.S.",
            f"{SEA}\nP.S. I love the sea.",
            SEA,
        )
    ],
}


def test_every_instruction_has_a_case():
    assert set(CASES) == set(TEXTS)


@pytest.mark.parametrize(
    ("name", "kwargs", "text", "right", "wrong"),
    [(name, *case) for name, cases in CASES.items() for case in cases],
)
def test_prompt_text_and_both_verdicts(name, kwargs, text, right, wrong):
    validate(name, kwargs)
    assert Instruction(name, kwargs).text == text
    assert follows(name, kwargs, right)
    assert not follows(name, kwargs, wrong)


@given(st.integers(), st.integers(0, 3))
def test_a_task_has_no_conflict(seed, number):
    task = sample_task(random.Random(seed), number)
    ids = [instruction.id for instruction in task.instructions]
    assert len(set(ids)) == len(ids) == number
    assert all(frozenset(pair) not in CONFLICTS for pair in combinations(ids, 2))
    assert all(instruction.text in task.prompt for instruction in task.instructions)
    required = {w for i in task.instructions for w in i.kwargs.get("keywords", [])}
    forbidden = {w for i in task.instructions for w in i.kwargs.get("forbidden_words", [])}
    assert not required & forbidden


@given(st.integers(), st.integers(0, 3), st.integers(1, 5))
def test_the_expert_follows_what_it_is_asked(seed, number, num_sentences):
    rng = random.Random(seed)
    task = sample_task(rng, number)
    text = write(rng, task, num_sentences)
    assert fluency([task.prompt], [text], topic=[task.topic.name]) == [1.0]
    ids = [instruction.id for instruction in task.instructions]
    if ids and keeps_counts(text, make_plan(task.instructions)):
        assert all(strict(ids, [i.kwargs for i in task.instructions], text))


def test_an_unknown_instruction_is_an_error():
    with pytest.raises(ValueError, match="unknown instruction"):
        make_plan((Instruction("change_case:english_capital", {}),))


def test_equal_seeds_write_equal_texts():
    def texts(seed: int) -> list[str]:
        rng = random.Random(seed)
        return [write(rng, sample_task(rng, 2), 2) for _ in range(20)]

    assert texts(3) == texts(3)
    assert texts(3) != texts(4)


def test_the_expert_varies():
    task = Task(TOPICS["sea"], "Write about the {topic}.", ())
    rng = random.Random(0)
    assert len({write(rng, task, 2) for _ in range(50)}) > 45


@given(st.sampled_from(sorted(TOPICS)), st.integers(), st.booleans())
def test_the_grammar_recognises_what_it_writes(name, seed, commas):
    topic, rng = TOPICS[name], random.Random(seed)
    sentence = sample_sentence(rng, topic, commas=commas)
    assert is_sentence(sentence, topic)
    assert commas or "," not in sentence
    assert is_title(sample_title(rng, topic), topic)


def test_a_preferred_word_appears_often():
    rng, topic = random.Random(0), TOPICS["sea"]
    for word in topic.words():
        sentences = [sample_sentence(rng, topic, prefer=word) for _ in range(40)]
        assert sum(word in sentence.lower() for sentence in sentences) >= 3


def test_a_phrase_ends_where_the_verb_begins():
    match = find_phrase("At night, the deep waves roll.", TOPICS["sea"])
    assert match is not None
    assert match[0] == "the deep waves"
    assert find_phrase("I love the sea.", TOPICS["sea"]) is None


def test_topics_do_not_share_words():
    words = [word for topic in TOPICS.values() for word in topic.words()]
    assert len(set(words)) == len(words)
