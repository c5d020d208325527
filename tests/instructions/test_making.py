"""Made prompts keep their promise: some response follows them, and a small change no longer does."""

import json
import os
import random
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from compatible import are_compatible
from hypothesis import given, settings
from hypothesis import strategies as st

from uniapl.errors import InputError
from uniapl.instructions import INSTRUCTION_IDS, follows, strict, validate
from uniapl.instructions.conflicts import conflicting
from uniapl.instructions.constructing import construct
from uniapl.instructions.contamination import Overlaps
from uniapl.instructions.drawing import NOUNS, draw_kwargs, suits
from uniapl.instructions.making import Recipe, make_files, make_prompts
from uniapl.instructions.phrasings import HELD_OUT_TYPES, PHRASINGS, phrase
from uniapl.types import Prompt

TEXTS = [
    "Why do people like sports?",
    "Name a fish",
    "Is the sea deep?",
    "Explain jets to a child.",
]

Kwargs = dict[str, Any]


def seeds(*texts: str) -> list[Prompt]:
    return [Prompt(str(n), ({"role": "user", "content": t},), ()) for n, t in enumerate(texts)]


def without(response: str, word: str, enough: int) -> str:
    """Take out occurrences until there are fewer than enough."""
    surplus = len(re.findall(re.escape(word), response, re.IGNORECASE)) - enough + 1
    return re.sub(re.escape(word), "", response, count=max(surplus, 1), flags=re.IGNORECASE)


def either(more: str, count: str, fewer: Callable[[str, Kwargs], str], relation: str = "relation"):
    """Violate "at least" with `fewer`, and "less than" by adding what is counted."""

    def violate(response: str, kwargs: Kwargs) -> str:
        if kwargs[relation] == "at least":
            return fewer(response, kwargs)
        return response + more.format(**kwargs) * kwargs[count]

    return violate


VIOLATIONS: dict[str, Callable[[str, Kwargs], str]] = {
    "change_case:capital_word_frequency": either(
        " UP", "capital_frequency", lambda r, _: r.lower(), "capital_relation"
    ),
    "change_case:english_capital": lambda r, _: r + " a",
    "change_case:english_lowercase": lambda r, _: r + " A",
    "combination:repeat_prompt": lambda r, _: "-" + r,
    "combination:two_responses": lambda r, _: r.replace("******", "*****"),
    "detectable_content:number_placeholders": lambda r, k: without(r, "[", k["num_placeholders"]),
    "detectable_content:postscript": lambda r, k: without(r, k["postscript_marker"], 1),
    "detectable_format:constrained_response": lambda r, _: r.lower(),
    "detectable_format:json_format": lambda r, _: r + ".",
    "detectable_format:multiple_sections": lambda r, k: r.replace(
        f"{k['section_spliter']} {k['num_sections']}", k["section_spliter"]
    ),
    "detectable_format:number_bullet_lists": lambda r, _: r + "\n* one more",
    "detectable_format:number_highlighted_sections": lambda r, _: re.sub(
        r"\*(\w+)\*", r"\1", r, count=1
    ),
    "detectable_format:title": lambda r, _: r.replace("<<", "<"),
    "keywords:existence": lambda r, k: without(r, k["keywords"][-1], 1),
    "keywords:forbidden_words": lambda r, k: f"{r} {k['forbidden_words'][-1]}",
    "keywords:frequency": either(
        " {keyword}", "frequency", lambda r, k: without(r, k["keyword"], k["frequency"])
    ),
    "keywords:letter_frequency": either(
        "{letter}",
        "let_frequency",
        lambda r, k: without(r, k["letter"], k["let_frequency"]),
        "let_relation",
    ),
    "language:response_language": lambda r, _: "This is what I would say to you about the weather.",
    "length_constraints:nth_paragraph_first_word": lambda r, _: r + "\n\nmore",
    "length_constraints:number_paragraphs": lambda r, _: r + "\n***\nmore",
    "length_constraints:number_sentences": either(
        " It is so.", "num_sentences", lambda r, _: re.sub(r"[.?!]", "", r)
    ),
    "length_constraints:number_words": either(
        " word", "num_words", lambda r, k: " ".join(re.findall(r"\w+", r)[: k["num_words"] - 1])
    ),
    "punctuation:no_comma": lambda r, _: r + ",",
    "startend:end_checker": lambda r, _: r + " more",
    "startend:quotation": lambda r, _: r[1:],
}


def assert_promise(ids: list[str], kwargs_list: list[Kwargs]) -> None:
    response = construct(ids, kwargs_list)
    assert response is not None
    assert all(strict(ids, kwargs_list, response))
    for name, kwargs in zip(ids, kwargs_list, strict=True):
        violated = VIOLATIONS[name](response, kwargs)
        assert not follows(name, kwargs, violated), (name, kwargs, violated)


@settings(max_examples=150)
@given(st.integers(0, 10**6), st.sampled_from(TEXTS), st.integers(1, 5))
def test_what_is_promised_can_be_followed_and_missed(number: int, text: str, count: int):
    recipe = Recipe(min_instructions=1, max_instructions=count)
    made = make_prompts(seeds(text), recipe, seed=number)
    for row in made.rows:
        ids, kwargs_list = row["instruction_id_list"], row["kwargs"]
        assert 1 <= len(ids) == len(kwargs_list) <= count
        assert are_compatible(ids)
        assert row["prompt"].startswith(text)
        for name, kwargs in zip(ids, kwargs_list, strict=True):
            validate(name, kwargs)
        assert_promise(ids, kwargs_list)
        assert json.loads(json.dumps(row)) == row


@pytest.mark.parametrize("name", INSTRUCTION_IDS)
@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_every_type_alone(name: str, number: int):
    text = "Is the sea deep?"
    assert suits(name, text)
    kwargs = draw_kwargs(name, text, random.Random(number))
    validate(name, kwargs)
    assert_promise([name], [kwargs])
    for template in (*PHRASINGS[name].training, *PHRASINGS[name].held_out):
        sentence = phrase(template, kwargs)
        assert "{" not in sentence
        for value in kwargs.values():
            shown = value if isinstance(value, list) else [value]
            assert name.startswith("language") or all(str(word) in sentence for word in shown)


def test_every_compatible_pair_can_be_followed():
    for pair in combinations(INSTRUCTION_IDS, 2):
        if not are_compatible(pair):
            continue
        rng = random.Random(0)
        drawn = ([draw_kwargs(name, "Name a fish", rng) for name in pair] for _ in range(5))
        assert any(construct(pair, kwargs_list) for kwargs_list in drawn), pair


def test_conflicts_are_mutual_and_leave_partners():
    for name in INSTRUCTION_IDS:
        assert name in conflicting(name)
        assert all(name in conflicting(other) for other in conflicting(name))
        if name != "detectable_format:constrained_response":
            assert len(INSTRUCTION_IDS) - len(conflicting(name)) >= 5
    assert not are_compatible(["punctuation:no_comma"] * 2)


def test_phrasings_cover_all_types_and_hold_some_out():
    assert PHRASINGS.keys() == set(INSTRUCTION_IDS)
    assert set(HELD_OUT_TYPES) < set(INSTRUCTION_IDS)
    for phrasings in PHRASINGS.values():
        assert len(set(phrasings.training)) >= 3
        assert phrasings.held_out
        assert not set(phrasings.training) & set(phrasings.held_out)


def test_no_keyword_is_part_of_another():
    assert len(set(NOUNS)) == len(NOUNS)
    assert not [(a, b) for a in NOUNS for b in NOUNS if a != b and a in b]


def test_the_same_seed_gives_the_same_prompts():
    first = make_prompts(seeds(*TEXTS), Recipe(), seed=1).rows
    assert make_prompts(seeds(*TEXTS), Recipe(), seed=1).rows == first
    assert make_prompts(seeds(*TEXTS), Recipe(), seed=2).rows != first
    # a prompt depends on its own seed text alone
    (last,) = make_prompts(seeds(TEXTS[-1]), Recipe(), seed=1).rows
    assert last["prompt"] == first[-1]["prompt"]


def test_dropped_seeds_are_counted():
    excluded = Overlaps(["Tell me: name a fish or two"])
    made = make_prompts(seeds("Name a fish!", "Why?", "Why?"), Recipe(), excluded=excluded)
    assert [row["seed_prompt"] for row in made.rows] == ["Name a fish!", "Why?"]
    assert made.dropped == {"the same as an earlier one": 1}
    made = make_prompts(seeds("Name a big fish!"), Recipe(), excluded=Overlaps(["name a big fish"]))
    assert made.dropped == {"overlaps with an excluded text": 1}
    assert made.lines()[0] == "0 prompts from 1 seeds"


def test_shared_wording():
    overlaps = Overlaps(["One two three four five six seven eight nine."], size=8)
    assert "Then: two, three four FIVE six seven eight nine ten" in overlaps
    assert "two three four five six seven eight and nine" not in overlaps
    assert "three four five six" in overlaps  # all of it, though short
    assert "three four five" not in overlaps  # too little to tell
    assert "three four five seven" not in overlaps


def test_held_out_prompts_show_what_training_does_not():
    texts = [f"What is number {number} about?" for number in range(300)]
    made, held_out = make_files(seeds(*texts), is_held_out=True)
    assert 20 < len(held_out.rows) < 120
    assert len(made.rows) + len(held_out.rows) == 300
    assert not {r["seed_prompt"] for r in made.rows} & {r["seed_prompt"] for r in held_out.rows}
    assert not set(HELD_OUT_TYPES) & set(made.types())
    for row in held_out.rows:
        has_new_type = bool(set(HELD_OUT_TYPES) & set(row["instruction_id_list"]))
        assert has_new_type == (row["held_out"] == "types")
    assert {row["held_out"] for row in held_out.rows} == {"types", "phrasings"}
    assert [row["key"] for row in held_out.rows] == list(range(len(held_out.rows)))
    words = " ".join(row["prompt"] for row in made.rows)
    assert "Punctuate as you like" not in words
    everything, nothing = make_files(seeds(*texts))
    assert (len(everything.rows), len(nothing.rows)) == (300, 0)
    assert set(HELD_OUT_TYPES) <= set(everything.types())


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(min_instructions=0),
        Recipe(min_instructions=3, max_instructions=2),
        Recipe(max_instructions=6),
        Recipe(types=()),
        Recipe(types=("punctuation:no_coma",)),
    ],
)
def test_impossible_recipes(recipe: Recipe):
    with pytest.raises(InputError):
        make_prompts(seeds("Why?"), recipe)


def test_our_phrasings_share_no_wording_with_ifeval():
    folder = os.environ.get("UNIAPL_DATA")
    if not folder:
        pytest.skip("UNIAPL_DATA is not set: no benchmark to compare with")
    lines = (Path(folder) / "ifeval_input_data.jsonl").read_text("utf-8").splitlines()
    overlaps = Overlaps(json.loads(line)["prompt"] for line in lines)
    for phrasings in PHRASINGS.values():
        for template in (*phrasings.training, *phrasings.held_out):
            assert len(template.split()) < 8 or template not in overlaps, template
