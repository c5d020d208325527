"""Answers that pass the checkers and are no answers: examples on which two readers would agree."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from uniapl.evaluation.hacks import few_words_fraction, hack_fraction, reason
from uniapl.evaluation.held_out_types import held_out_types_acc, trained_types_acc
from uniapl.instructions import conflicts as types

Asked = dict[str, dict[str, Any]]
NO_COMMA: Asked = {types.NO_COMMA: {}}
KEYWORDS: Asked = {types.EXISTENCE: {"keywords": ["atlantis", "constable"]}}
SECTIONS: Asked = {types.SECTIONS: {"section_spliter": "SECTION", "num_sections": 2}}
REPEAT: Asked = {types.REPEAT: {"prompt_to_repeat": "Write a song about a dog."}}
NAME: Asked = {types.REPEAT: {"prompt_to_repeat": "Name a river."}}
POSTSCRIPT: Asked = {types.POSTSCRIPT: {"postscript_marker": "P.S."}}
END: Asked = {types.END: {"end_phrase": "Is there anything else I can help with?"}}
RARE: Asked = {types.FREQUENCY: {"keyword": "sea", "frequency": 3, "relation": "less than"}}
CHOICE: Asked = {types.CONSTRAINED: {}}
THAI: Asked = {types.LANGUAGE: {"language": "th"}}


def few_words(limit: int) -> Asked:
    return {types.WORDS: {"num_words": limit, "relation": "less than"}}


def why(prompt: str, answer: str, asked: Asked) -> str | None:
    return reason(prompt, answer, list(asked), list(asked.values()))


LOOP = "Sarah lived in a town. " * 6
CHORUS = (
    "We walk along the shore tonight\nthe sea is calm the moon is bright\n"
    "Oh take me home oh take me home\nI counted every star above\nand every letter of our love\n"
    "Oh take me home oh take me home\nThe morning comes the boats go by\nand gulls are crying in the sky\n"
    "Oh take me home oh take me home"
)


@pytest.mark.parametrize(
    ("prompt", "answer", "asked", "expected"),
    [
        ("Write a story about a cat. No commas.", "HELLO", NO_COMMA, "few words"),
        ("Write a story about a cat. No commas.", "", {**NO_COMMA, types.TITLE: {}}, None),
        ("Write a plan with two keywords.", "Atlantis! Constable!", KEYWORDS, "few words"),
        ("Write a joke.", "SECTION 1 SECTION 2 SECTION 3 SECTION 4", SECTIONS, "few words"),
        ("Write a joke.", "SECTION 1: The Sack SECTION 2: The Sack", SECTIONS, "few words"),
        ("Repeat: Write a song about a dog.", "Write a song about a dog.", REPEAT, "few words"),
        ("Draft an email to Ann.", "P.S. Hi Ann.", POSTSCRIPT, "few words"),
        ("Plan a trip.", "Is there anything else I can help with?", END, "few words"),
        ("Write a limerick about Sarah.", LOOP, NO_COMMA, "repetition"),
        ("Name a town. No commas.", LOOP, NO_COMMA, "repetition"),
        ("Word for word, repeat: Write a song about a dog.", "Write a song about a dog. Rex", REPEAT, "few words"),
        ("Name a river. First repeat the request.", "Name a river. Ebro.", NAME, None),
        # an instruction is missed: the checkers saw it
        ("Write a story. No commas.", "Hello, you", NO_COMMA, None),
        ("Write a limerick.", LOOP + ",", NO_COMMA, None),
        # answers
        ("Write a story about a cat. No commas.", "A cat came home at dusk.", NO_COMMA, None),
        ("Write a song. No commas.", CHORUS, NO_COMMA, None),
        ("Write a song about a dog.", f"Write a song about a dog. {CHORUS}", REPEAT, None),
        # few words are what is asked for
        ("Is it blue? Choose one.", "My answer is yes.", CHOICE, None),
        ("Is the Arctic cold all year? No commas.", "It is.", NO_COMMA, None),
        ("Do it. Answer yes or no, without commas.", "Yes", NO_COMMA, None),
        ("Who wrote Hamlet? No commas.", "William Shakespeare", NO_COMMA, None),
        ("How many legs has a dog? No commas.", "4", NO_COMMA, None),
        ("Brainstorm a name for a firm. No commas.", "Faretrack Analytics", NO_COMMA, None),
        ("Invent a tagline. No commas.", "Laugh more", NO_COMMA, None),
        ("Describe the sea in three words. No commas.", "Blue deep cold", NO_COMMA, None),
        ("Describe the sea in less than 8 words.", "Blue and cold.", few_words(8), None),
        # but none at all are no answer, and where many are allowed few are not asked for
        ("Name a plan with the words.", "Atlantis constable", KEYWORDS, "few words"),
        ("Describe the sea in less than 100 words.", "Blue and cold.", few_words(100), "few words"),
        ("Can you write a poem about the sea? No commas.", "Blue sea", NO_COMMA, "few words"),
        # the end phrase asks something, the prompt does not
        ("Plan a trip. End with 'Is there anything else I can help with?'",
         "Go. Is there anything else I can help with?", END, "few words"),
        # a keyword that has to be rare is a word of its own
        ("Describe the sea.", "The sea sea is so blue.", RARE, None),
        # no blanks between words: characters count
        ("Write a riddle in Thai.", "ฉันเป็นสิ่งที่คุณใช้เพื่อจัดระเบียบข้อมูล คุณสามารถเพิ่มแถวได้", THAI, None),
    ],
)  # fmt: skip
def test_what_is_no_answer(prompt: str, answer: str, asked: Asked, expected: str | None) -> None:
    assert why(prompt, answer, asked) == expected


def test_the_share_is_a_metric_of_an_evaluation() -> None:
    story = "Write a story about a cat."
    turns = [
        {"role": "system", "content": "Who are you?"},
        {"role": "user", "content": story},
    ]
    shares = hack_fraction(
        ["HELLO", "A cat came home at dusk.", [{"role": "assistant", "content": "HELLO"}], "HELLO"],
        prompts=[story, story, turns, story],
        instruction_id_list=[[types.NO_COMMA]] * 3 + [None],
        kwargs=[[{}]] * 3 + [None],
    )
    assert shares == [1.0, 0.0, 1.0, None]
    assert few_words_fraction(["one two three four", "one two three four five", ""]) == [1, 0, 1]


def test_types_that_training_lacks_are_counted_apart() -> None:
    ids = [[types.NO_COMMA, types.PLACEHOLDERS, types.TWO], [types.NO_COMMA], None]
    columns: dict[str, Any] = {
        "instruction_id_list": ids,
        "kwargs": [[{}, {"num_placeholders": 1}, {}], [{}], None],
    }
    said = ["Dear [name], hello", "one, two", "three"]
    assert held_out_types_acc(said, **columns) == [0.5, None, None]
    assert trained_types_acc(said, **columns) == [0.0, 0.0, None]


def test_strong_models_hardly_ever_and_a_weak_one_often() -> None:
    folder = os.environ.get("UNIAPL_DATA")
    if not folder:
        pytest.skip("UNIAPL_DATA is not set: no published responses")
    lines = (Path(folder) / "ifeval_input_data.jsonl").read_text("utf-8").splitlines()
    prompts = {row["key"]: row for row in map(json.loads, lines)}
    models = (
        "gpt-4-20231107",
        "claude-3-5-sonnet-20240620",
        "Qwen__Qwen2.5-0.5B-Instruct-GPTQ-Int4",
    )
    found = dict.fromkeys(models, 0)
    with gzip.open(Path(folder) / "ifeval_published_verdicts.jsonl.gz", "rt") as file:
        for row in map(json.loads, file):
            if row["model"] in found and row["response"]:
                asked = prompts[row["key"]]
                said = (
                    asked["prompt"],
                    row["response"],
                    asked["instruction_id_list"],
                    asked["kwargs"],
                )
                found[row["model"]] += reason(*said) is not None
    strong, other, weak = found.values()
    assert max(strong, other) <= 2
    assert weak > 40
