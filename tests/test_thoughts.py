"""Thoughts are what `<think>` or the prompt opened; an answer may mention the marks."""

import pytest

from uniapl.thoughts import continuing, divide, left_open, without_thoughts
from uniapl.types import Prompt, Rollout

MENTION = "Models close their plan with </think> before they answer."


@pytest.mark.parametrize(
    ("completion", "thoughts", "answer"),
    [
        ("red", "", "red"),
        ("<think>\nblue?\n</think>\n\nred", "blue?", "red"),
        (" <think>cut off", "cut off", ""),
        ("<think></think>red", "", "red"),
        ("<think>a</think>\n<think>b</think> red ", "a\n\nb", "red"),
        ("an unopened <think>", "", "an unopened <think>"),
        (MENTION, "", MENTION),
        (f"<think>a</think>{MENTION}", "a", MENTION),
        ("Write `<think>` and `</think>`.", "", "Write `<think>` and `</think>`."),
        ("</think>", "", "</think>"),
        ("", "", ""),
    ],
)
def test_thoughts_and_answer(completion: str, thoughts: str, answer: str):
    assert divide(completion) == (thoughts, answer)
    assert without_thoughts(completion) == answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("blue?\n</think>\nred ", "red"),
        ("</think>red", "red"),
        ("<think>\nagain\n</think>red", "red"),
        ("never ends", ""),
        ("a</think>" + MENTION, MENTION),
    ],
)
def test_a_prompt_may_open_the_thought(completion: str, answer: str):
    prompt = Prompt("a", (), (1,))
    rollout = Rollout(prompt, completion, (), (), "stop", begins_thinking=True)
    assert rollout.answer == answer


@pytest.mark.parametrize(
    ("prompt", "is_open"),
    [
        ("<|assistant|><think>\n", True),
        ("<|assistant|><think>", True),
        ("<|assistant|>\n<think>\n\n</think>\n\n", False),
        ("What does <think> mean?<|assistant|>", False),
    ],
)
def test_which_prompts_leave_a_thought_open(prompt: str, is_open: bool):
    assert left_open(prompt) == is_open


@pytest.mark.parametrize(
    ("completion", "continued"),
    [
        ("red", "\n</think>\n\nred"),
        ("<think>\nblue?\n</think>\n\nred", "blue?\n</think>\n\nred"),
        ("<think>blue?</think>red", "blue?</think>red"),
        ("blue?</think>red", "blue?</think>red"),
    ],
)
def test_a_demonstration_goes_on_from_an_open_thought(completion: str, continued: str):
    assert continuing(completion, "<think>\n") == continued
    assert continuing(completion, "") == completion
