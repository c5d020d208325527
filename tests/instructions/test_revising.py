"""Edited answers: they follow what was asked, by the checkers, and say what they said."""

import json
import random
import re
from collections import Counter
from itertools import product
from typing import Any

import pytest

from uniapl.instructions import INSTRUCTION_IDS, revise, strict
from uniapl.instructions import conflicts as types
from uniapl.instructions.drawing import draw_kwargs
from uniapl.instructions.edits import (
    cut_back,
    dealt,
    highlighted,
    list_points,
    title_of,
    whole_sentences,
    without_capital_words,
    without_commas,
    without_last,
)
from uniapl.instructions.making import Recipe, make_prompts
from uniapl.instructions.weaving import bracketed, divided, is_noun_like, items, question, woven
from uniapl.types import Prompt
from uniapl.words import find_words

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


def test_keywords_go_into_sentences_that_are_there() -> None:
    sentences = ["The sea is calm.", "We walk along the river in spring."]
    found = woven(sentences, ["lantern", "spain"], "What is Spain like?")
    assert found is not None
    assert sum("the lantern" in sentence for sentence in found) == 1
    assert [w for w in " ".join(found).split() if w.strip(".") == "Spain"]
    assert all(len(a.split()) > len(b.split()) for a, b in zip(found, sentences, strict=True))
    assert woven(["The sea is calm."], ["castle"] * 3, "") is None
    assert is_noun_like("lantern", "Describe a walk.")
    assert not is_noun_like("describe", "Describe a walk.")
    assert not is_noun_like("visit", "Where do you visit friends?")
    assert not is_noun_like("quickly", "")


def test_a_keyword_that_is_no_noun_comes_with_the_prompts_own_sentence() -> None:
    text, kwargs = "The Ebro is a long river in Spain.", {"keywords": ["describe", "lantern"]}
    found = revise([types.EXISTENCE], [kwargs], text, "Describe a river.")
    assert found is not None
    assert found.startswith("Describe a river")
    assert revise([types.EXISTENCE], [{"keywords": ["quickly"]}], text, "Name a river.") is None


def test_placeholders_are_words_of_the_answer() -> None:
    text = "The Ebro is a long river in Spain. It ends at the sea."
    assert bracketed(text, 2) == "The [Ebro] is a long [river] in Spain. It ends at the sea."
    assert bracketed(text, 4) == "The [Ebro] is a long [river] in [Spain]. It ends at the [sea]."
    short = "The sea is blue, and deep."
    assert revised(types.PLACEHOLDERS, short, num_placeholders=1) == "The [sea] is blue, and deep."
    assert revised(types.PLACEHOLDERS, "Go to [place] by train.", num_placeholders=2) == (
        "Go to [place] by [train]."
    )


def test_more_sentences_come_from_longer_ones_and_from_the_question() -> None:
    text = ["The sea is blue, but it is cold; we like it.", "It is red, and has fish."]
    once = divided(text)
    assert once == ["The sea is blue.", "But it is cold; we like it.", "It is red, and has fish."]
    assert divided(["We met Ann, who is a nurse, and Bob."]) is None
    assert divided(["I saw the forts, which are old."]) == ["I saw the forts.", "These are old."]
    assert items(["We like walks on the beach, fresh fish, and long evenings.", "A, b."]) == [
        "We like walks on the beach.",
        "Fresh fish.",
        "Long evenings.",
        "A, b.",
    ]
    assert question("who wrote Hamlet. Say it.") == "Who wrote Hamlet?"
    assert question("Name a river in Spain.") is None
    assert revised(types.TWO, "It is a long river in Spain.") == (
        f"{SEED}\n******\nIt is a long river in Spain."
    )


def test_a_postscript_is_the_last_sentence_and_a_first_word_a_heading() -> None:
    short = "The sea is blue, and deep. It has many fish."
    assert revised(types.POSTSCRIPT, short, postscript_marker="P.S.") == (
        "The sea is blue, and deep.\n\nP.S. It has many fish."
    )
    kwargs = {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "lantern"}
    assert revised(types.NTH_PARAGRAPH, short, **kwargs) == (
        "The sea is blue, and deep.\n\nLantern\nIt has many fish."
    )


def test_a_list_that_is_too_long_keeps_its_first_points() -> None:
    text = "Here are fruits:\n1. Apples\n2. Pears\n3. Plums"
    assert revised(types.BULLETS, text, num_bullets=2) == "* Apples.\n* Pears."


def four_word_runs(text: str) -> set[tuple[str, ...]]:
    words = [word.lower() for word in find_words(text)]
    return set(zip(words, words[1:], words[2:], words[3:], strict=False))


def synthetic_answers(count: int) -> list[tuple[str, str]]:
    """Questions and answers that hardly share a run of words: nouns and adjectives are drawn among hundreds."""
    rng = random.Random(0)
    syllables = [a + b for a, b in product("bdfgklmnprst", "aeiou")]
    nouns = ["".join(rng.sample(syllables, 3)) + rng.choice("nrts") for _ in range(600)]
    shapes = (
        "The {} of {} is near the {}, and it was {} in {}.",
        "Many {} like {} because of the {}.",
        "{}, {} and {} are what {} should see in {}.",
        "Some {} went to the {} with {}; they were {}.",
        "Is {} like {} in a {}?",
        "{} has a {}, which is {}.",
    )
    answers = []
    for _ in range(count):
        drawn = [rng.choice(shapes).replace("{}", "{0}") for _ in range(rng.randint(2, 7))]
        texts = []
        for shape in drawn:
            while "{0}" in shape:
                shape = shape.replace("{0}", rng.choice(nouns), 1)
            texts.append(shape[0].upper() + shape[1:])
        ask = rng.choice(("Why do {} like {}", "Describe {} near {}.", "what is a {} of {}?"))
        answers.append((ask.format(*rng.sample(nouns, 2)), " ".join(texts)))
    return answers


def test_no_run_of_words_comes_from_the_program() -> None:
    """A policy repeats what its demonstrations repeat: four words in a row that many revisions add are boilerplate."""
    given: set[tuple[str, ...]] = set()
    added: Counter[tuple[str, ...]] = Counter()
    kinds: Counter[str] = Counter()
    num_revised = 0
    for number, (prompt, answer) in enumerate(synthetic_answers(600)):
        (row,) = made_prompts([prompt], seed=number)
        ids, kwargs = row["instruction_id_list"], row["kwargs"]
        text = revise(ids, kwargs, answer, prompt)
        own = four_word_runs(row["prompt"]) | four_word_runs(answer)
        given |= own
        if text is None or text == answer:
            continue
        num_revised += 1
        kinds.update(ids)
        # the marker of a postscript is prescribed
        added.update(four_word_runs(re.sub(r"P\.(P\.)?S\.?", "", text)) - own)
    assert num_revised > 250
    assert set(kinds) == set(INSTRUCTION_IDS) - {types.LANGUAGE, types.CONSTRAINED}
    often = {run: n for run, n in added.items() if n > 0.01 * num_revised and run not in given}
    assert not often


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
    # only what asks for far more words, letters or sentences than there are fails
    asks_for_more = (types.WORDS, types.SENTENCES, types.LETTER, types.BULLETS)
    least = 0.4 if instruction_id in asks_for_more else 0.95
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
    assert succeeded >= 0.7 * tried


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
    assert title_of("") is None
    assert without_last("One is. Two is.") == ("One is.", "Two is.")
    assert without_last("One is.\n\nTwo is.") == ("One is.", "Two is.")
    assert without_last("One is. Two") is None
    assert without_last("* One is. Two is.") is None
    assert without_last("Two is.") is None
    assert list_points("Fruits:\n1. **Apples**,\n* Pears are sweet.\n- apples\n*\n") == [
        "Apples.",
        "Pears are sweet.",
    ]
