"""Edited answers: they follow what was asked, by the checkers, and say what they said."""

import json
import random
from typing import Any

import pytest

from uniapl.instructions import INSTRUCTION_IDS, revise, strict
from uniapl.instructions import conflicts as types
from uniapl.instructions.drawing import draw_kwargs
from uniapl.instructions.edits import (
    cut_back,
    dealt,
    highlighted,
    title_of,
    whole_sentences,
    without_capital_words,
    without_commas,
)
from uniapl.instructions.making import Recipe, make_prompts
from uniapl.types import Prompt

ANSWER = (
    "Many people visit the coast in spring. The weather is mild, and hotels cost less than in summer. "
    "Visitors enjoy long walks on the beach, fresh seafood, and quiet evenings. Local markets sell "
    "fruit and bread from nearby farms. Some people bring their bikes and ride along the river. "
    "The towns by the sea are small."
)
SEED = "Why do people visit the coast in spring?"


def revised(instruction_id: str, text: str = ANSWER, **kwargs: Any) -> str | None:
    found = revise([instruction_id], [kwargs], text, SEED)
    assert found is None or all(strict([instruction_id], [kwargs], found))
    return found


def test_what_follows_already_is_left_alone() -> None:
    text = "one two three, four  "
    assert revise([types.LOWERCASE], [{}], ANSWER.lower()) == ANSWER.lower()
    assert revised(types.WORDS, text, num_words=4, relation="at least") == text


def test_edits_by_hand() -> None:
    short = "The sea is blue, and deep. It has many fish."
    assert revised(types.NO_COMMA, short) == "The sea is blue and deep. It has many fish."
    assert revised(types.QUOTATION, 'He said "hi" to us.') == "\"He said 'hi' to us.\""
    assert revised(types.END, short, end_phrase="And so it goes.") == f"{short} And so it goes."
    assert revised(types.BULLETS, short, num_bullets=2) == (
        "* The sea is blue, and deep.\n* It has many fish."
    )
    assert revised(types.TWO, short) == "The sea is blue, and deep.\n******\nIt has many fish."
    assert revised(types.TITLE, short) == f"<<Why Do People Visit The Coast In>>\n\n{short}"
    assert revised(types.FORBIDDEN, short, forbidden_words=["blue"]) == "It has many fish."
    assert revised(types.SENTENCES, short, num_sentences=2, relation="less than") == (
        "The sea is blue, and deep."
    )
    assert json.loads(revised(types.JSON, short) or "") == {"answer": short}
    assert revised(types.CONSTRAINED, "No, it is not.") == "My answer is no."
    assert revised(types.CONSTRAINED, "My answer is yes") == "My answer is yes."
    assert revised(types.SECTIONS, short, section_spliter="Part", num_sections=2) == (
        "Part 1\nThe sea is blue, and deep.\n\nPart 2\nIt has many fish."
    )


def test_only_what_is_missing_is_put_around_a_text() -> None:
    text = "Take these.\n\n- **Apples** are red.\n- `x * y` >> __init__\n\nP.S. Good luck."
    ids, kwargs = [types.POSTSCRIPT, types.TITLE], [{"postscript_marker": "P.S."}, {}]
    assert revise(ids, kwargs, text, "Fruit!") == f"<<Fruit>>\n\n{text}"
    repeated = f"{SEED}\nThe sea is warm, and blue."
    ids = [types.REPEAT, types.HIGHLIGHTS]
    kwargs = [{"prompt_to_repeat": SEED}, {"num_highlights": 1}]
    found = revise(ids, kwargs, repeated)
    assert found is not None
    assert found.count("spring?") == 1


def test_counts_may_be_floats_and_impossible_ones_find_nothing() -> None:
    assert revised(types.BULLETS, "It is red. It is blue.", num_bullets=2.0) == (
        "* It is red.\n* It is blue."
    )
    kwargs = {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "sea"}
    assert revised(types.NTH_PARAGRAPH, **kwargs) is None


def test_an_answer_that_broke_off_loses_the_broken_sentence() -> None:
    text = "The sea is blue. The sea is very"
    assert revise([types.NO_COMMA], [{}], text, is_cut_off=True) == "The sea is blue."
    assert revise([types.NO_COMMA], [{}], "The sea is very", is_cut_off=True) is None


def test_keywords_that_are_there_are_not_added_again() -> None:
    text = revised(types.EXISTENCE, keywords=["beach", "lantern"])
    assert text is not None
    assert text.count("beach") == 1
    assert text.count("lantern") == 1
    text = revised(types.FREQUENCY, keyword="coast", frequency=3, relation="at least")
    assert text is not None
    assert text.lower().count("coast") == 3


def test_nothing_is_invented_where_edits_do_not_suffice() -> None:
    assert revised(types.LANGUAGE, language="de") is None
    assert revised(types.CONSTRAINED, "It depends.") is None
    assert revised(types.CONSTRAINED, "Yes and no.") is None
    german = "Das Meer ist blau und es hat sehr viele Fische. Wir gehen heute mit den Kindern hin."
    assert revised(types.SENTENCES, german, num_sentences=4, relation="at least") is None
    list_of_words = "Here is a list of fruits.\n" + "\n".join(f"- fruit{n}" for n in range(20))
    assert revised(types.SECTIONS, list_of_words, section_spliter="Part", num_sections=2) is None
    assert revised(types.WORDS, num_words=300, relation="at least") is None
    assert revised(types.FORBIDDEN, "The sea.", forbidden_words=["sea"]) is None
    assert revised(types.QUOTATION, "Hm.") is None
    assert revised(types.QUOTATION, "") is None


@pytest.mark.parametrize(
    "instruction_id", sorted(set(INSTRUCTION_IDS) - {types.LANGUAGE, types.CONSTRAINED})
)
def test_every_type_but_languages_mostly_succeeds(instruction_id: str) -> None:
    found = []
    for seed in range(20):
        kwargs = draw_kwargs(instruction_id, SEED, random.Random(seed))
        found.append(revised(instruction_id, **kwargs))
        assert found[-1] == revised(instruction_id, **kwargs)
    # only what asks for far more words or sentences than there are fails
    least = 0.5 if instruction_id in (types.WORDS, types.SENTENCES) else 0.95
    assert sum(text is not None for text in found) >= least * len(found)


def test_pairs_of_instructions_as_prompts_have_them() -> None:
    seeds = [
        ("How do I bake bread?", ANSWER),
        ("Name a river in Spain.", "The Ebro is a long river in Spain."),
        (
            "What is a market?",
            "1. **Bread**: It is flour.\n2. **Milk**: From cows.\n3. **Eggs**: Hens",
        ),
        ("Is the sea blue?", "Yes, the sea is blue. It mirrors the sky! It mirrors the sky! And"),
    ]
    tried = succeeded = 0
    for number in range(40):
        rng_seeds = [(f"{text} ({number})", answer) for text, answer in seeds]
        made = made_prompts([text for text, _ in rng_seeds], seed=number)
        for (_, answer), row in zip(rng_seeds, made, strict=True):
            ids, kwargs = row["instruction_id_list"], row["kwargs"]
            if types.LANGUAGE in ids:
                continue
            text = revise(ids, kwargs, answer, row["seed_prompt"])
            assert text is None or all(strict(ids, kwargs, text))
            tried += 1
            succeeded += text is not None
    assert tried > 100
    assert succeeded >= 0.85 * tried


def made_prompts(seeds: list[str], seed: int) -> list[dict[str, Any]]:
    prompts = [Prompt(text, ({"role": "user", "content": text},), (1,)) for text in seeds]
    made = make_prompts(prompts, Recipe(max_instructions=2), seed=seed)
    assert len(made.rows) == len(seeds)
    return made.rows


def test_whole_sentences_drop_markup_repetition_and_what_was_cut_off() -> None:
    text = "## Reasons\n1. **It is** warm.\n* It is dry.\n\nIt is dry. Then we went to the"
    assert whole_sentences(text) == ["It is warm.", "It is dry."]
    assert whole_sentences("It is dry. It is warm. It is DRY.") == ["It is dry.", "It is warm."]
    assert whole_sentences("Then we went to the") == ["Then we went to the."]
    assert whole_sentences(" \n* ") == []


def test_small_edits() -> None:
    assert cut_back('One. Two? "Three!" Four costs 1.5') == 'One. Two? "Three!"'
    assert cut_back("One two") is None
    assert cut_back("One is here.\n1. Apples.\n2. Pea") == "One is here.\n1. Apples."
    assert cut_back("It was late. Then I met Dr. Smi") == "It was late."
    assert without_commas("red,green,blue") == "red green blue"
    assert without_capital_words("NASA is an agency of the USA.", 2) == (
        "NASA is an agency of the Usa."
    )
    assert without_commas("A, b, and c cost 1,000 or so, they say.") == (
        "A b and c cost 1000 or so they say."
    )
    assert dealt(["a", "b", "c"], 2) == [["a"], ["b", "c"]]
    assert dealt(["a"], 2) is None
    assert highlighted("The river is wide. A mountain!", 2) == "The *river* is wide. A *mountain*!"
    assert title_of("what's a 'market'? Say so.") == "What's A Market"
    assert title_of("") == "An Answer"
