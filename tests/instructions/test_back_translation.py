"""Instructions read off a completion: it follows all of them, and they say something about it."""

import random

import pytest
from compatible import are_compatible
from hypothesis import given, settings
from hypothesis import strategies as st

from uniapl.instructions import follows, strict
from uniapl.instructions.back_translation import derive_instructions
from uniapl.instructions.making import Recipe, back_translate
from uniapl.types import Prompt

PROMPT = "Tell me about the sea."
LONG = "The ocean covers most of the planet and the ocean holds countless living things within it."
GERMAN = "Das Meer ist groß und die Fische darin sind sehr schnell und schön"


def pair(completion: str | None) -> Prompt:
    columns = {} if completion is None else {"completion": completion}
    return Prompt("p", ({"role": "user", "content": PROMPT},), (), False, columns)


text = st.lists(
    st.sampled_from(
        [*"aAbB.,!?*-[]<>\"' \n1", "\n\n", "***", "P.S. ", "Part 1", "<<a>>", LONG, "{}", "- one\n"]
    )
).map("".join)


@settings(max_examples=150)
@given(text, st.integers(0, 10**6))
def test_the_completion_follows_all_that_is_derived(completion: str, number: int):
    for name, kwargs in derive_instructions(PROMPT, completion, random.Random(number)).items():
        assert follows(name, kwargs, completion)


@settings(max_examples=50)
@given(text.filter(str.strip), st.integers(0, 10**6))
def test_a_row_is_a_verified_demonstration(completion: str, number: int):
    made = back_translate([pair(completion)], Recipe(max_instructions=5), seed=number)
    for row in made.rows:
        assert row["completion"] == completion
        assert are_compatible(row["instruction_id_list"])
        assert all(strict(row["instruction_id_list"], row["kwargs"], completion))


@pytest.mark.parametrize(
    ("completion", "name", "kwargs"),
    [
        (f"* a\n* b\n* c\n{LONG}", "detectable_format:number_bullet_lists", {"num_bullets": 3}),
        (f"{LONG}\n\nMore of it.", "length_constraints:nth_paragraph_first_word", None),
        (LONG.lower(), "change_case:english_lowercase", {}),
        (LONG.upper(), "change_case:english_capital", {}),
        (f"{LONG} {LONG}", "punctuation:no_comma", {}),
        (f'"{LONG}"', "startend:quotation", {}),
        (f"<<Sea>> {LONG}", "detectable_format:title", {}),
        (f"A *big* sea. {LONG}", "detectable_format:number_highlighted_sections", {"num_highlights": 1}),
        (f"{LONG} Dear [name] of [town].", "detectable_content:number_placeholders", {"num_placeholders": 2}),
        (f"{LONG}\nP.S. Swim.", "detectable_content:postscript", {"postscript_marker": "P.S."}),
        ('{"sea": ["blue"]}', "detectable_format:json_format", {}),
        (f"{LONG}******{LONG} So.", "combination:two_responses", {}),
        (f"{LONG}\n***\nSo.", "length_constraints:number_paragraphs", {"num_paragraphs": 2}),
        (f"Part 1\n{LONG}\nPart 2\nSo.", "detectable_format:multiple_sections", None),
        (f"{PROMPT} {LONG}", "combination:repeat_prompt", {"prompt_to_repeat": PROMPT}),
        (f"{LONG} And that is {LONG} That was all.", "startend:end_checker", {"end_phrase": "That was all."}),
        (GERMAN, "language:response_language", {"language": "de"}),
    ],
)  # fmt: skip
def test_what_a_completion_shows(completion: str, name: str, kwargs: dict | None):
    derived = derive_instructions(PROMPT, completion, random.Random(0))
    assert name in derived
    assert kwargs is None or derived[name] == kwargs


def test_what_says_nothing_is_not_asked_for():
    derived = derive_instructions(PROMPT, "It is blue.", random.Random(0))
    assert derived == {}
    plain = derive_instructions(PROMPT, LONG, random.Random(0))
    assert not any(name.startswith(("detectable", "combination", "startend")) for name in plain)


def test_bounds_are_close():
    words = [
        derive_instructions(PROMPT, LONG, random.Random(number))["length_constraints:number_words"]
        for number in range(40)
    ]
    assert {kwargs["relation"] for kwargs in words} == {"at least", "less than"}
    for kwargs in words:
        assert 11 <= kwargs["num_words"] <= 22  # the completion has 16


def test_dropped_pairs_are_counted():
    made = back_translate([pair(None), pair("Blue.")], Recipe())
    assert made.rows == []
    assert sum(made.dropped.values()) == 2
    assert made.dropped["no completion"] == 1
