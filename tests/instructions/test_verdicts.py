import math
import statistics
from typing import Any

import pytest

import uniapl.instructions
from uniapl.instructions import InstructionError, Verdict, aggregate, follows, strict, verify
from uniapl.instructions.verdicts import loose_variants

NO_COMMA, QUOTES, WORDS = (
    "punctuation:no_comma",
    "startend:quotation",
    "length_constraints:number_words",
)


def test_all_is_sorted_and_complete():
    names = uniapl.instructions.__all__
    assert names == sorted(names)
    assert all(hasattr(uniapl.instructions, name) for name in names)


def test_strict_and_follows_agree():
    response = '"red, blue"'
    assert strict([NO_COMMA, QUOTES], [{}, {}], response) == (False, True)
    assert [follows(name, {}, response) for name in (NO_COMMA, QUOTES)] == [False, True]


@pytest.mark.parametrize("response", [None, "", " \n\t"])
@pytest.mark.parametrize("official", [False, True])
def test_a_blank_response_fails_everything(response, official):
    ids = [NO_COMMA, WORDS]
    kwargs = [{}, {"num_words": 5, "relation": "less than"}]
    verdict = verify(ids, kwargs, response, official=official)
    assert verdict == Verdict(tuple(ids), (False, False), (False, False))
    assert strict(ids, kwargs, response, official=official) == (False, False)


def test_kwargs_are_checked_even_if_the_response_is_blank():
    with pytest.raises(InstructionError, match="missing"):
        verify([WORDS], [{}], "")


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Sure, here:\nred blue", True),  # without the first line
        ("red blue\nYours, me", True),  # without the last line
        ("Sure, here:\nred blue\nYours, me", True),  # without both
        ("red, blue\nred, blue\nred, blue", False),
        ("red, blue", False),  # without its only line nothing is left
    ],
)
def test_loose_drops_lines(response, expected):
    verdict = verify([NO_COMMA], [{}], response)
    assert verdict.strict == (False,)
    assert verdict.loose == (expected,)


def test_loose_drops_asterisks():
    verdict = verify([QUOTES], [{}], '**"text"**')
    assert (verdict.strict, verdict.loose) == ((False,), (True,))
    both = verify([QUOTES], [{}], 'Sure:\n*"text"*')
    assert (both.strict, both.loose) == ((False,), (True,))


def test_each_loose_instruction_may_use_another_variant():
    response = 'Sure, here:\n"red blue"\n'
    ids, kwargs = [QUOTES, WORDS], [{}, {"num_words": 4, "relation": "at least"}]
    verdict = verify(ids, kwargs, response)
    assert verdict.strict == (False, True)
    assert verdict.loose == (True, True)
    assert not verdict.all_strict
    assert verdict.all_loose


def test_loose_variants_are_the_eight_without_repetitions():
    assert loose_variants("a\n*b*\nc") == [
        "a\n*b*\nc",
        "*b*\nc",
        "a\n*b*",
        "*b*",
        "a\nb\nc",
        "b\nc",
        "a\nb",
        "b",
    ]
    assert loose_variants("a") == ["a"]
    assert loose_variants("*") == ["*"]
    assert loose_variants(" ") == []


@pytest.mark.parametrize(
    ("ids", "kwargs", "message"),
    [
        ([], [], "no instructions to check"),
        ([NO_COMMA], [], "1 instruction ids, but 0 kwargs; one each is needed"),
        (NO_COMMA, [{}], "instruction ids must be a list"),
    ],
)
def test_wrong_lists(ids, kwargs, message):
    for check in (strict, verify):
        with pytest.raises(InstructionError, match=message):
            check(ids, kwargs, "text")


def test_a_response_must_be_text():
    messages: Any = [{"role": "assistant", "content": "x"}]
    with pytest.raises(InstructionError, match="must be a string, got list"):
        strict([NO_COMMA], [{}], messages)


def test_aggregate_by_hand():
    verdicts = [
        Verdict((NO_COMMA, QUOTES), (True, True), (True, True)),
        Verdict((NO_COMMA,), (False,), (True,)),
        Verdict((NO_COMMA, QUOTES, WORDS), (True, False, False), (True, False, True)),
        Verdict((WORDS,), (True,), (True,)),
    ]
    summary = aggregate(verdicts)
    assert summary["prompt_level_strict_acc"] == 2 / 4
    assert summary["prompt_level_loose_acc"] == 3 / 4
    assert summary["inst_level_strict_acc"] == 4 / 7
    assert summary["inst_level_loose_acc"] == 6 / 7
    assert summary["num_prompts"] == 4
    assert summary["num_instructions"] == 7
    assert summary["instructions"] == {
        WORDS: {"count": 2, "strict_acc": 0.5, "loose_acc": 1.0},
        NO_COMMA: {"count": 3, "strict_acc": 2 / 3, "loose_acc": 1.0},
        QUOTES: {"count": 2, "strict_acc": 0.5, "loose_acc": 0.5},
    }
    strict_error = statistics.stdev([1, 0, 0, 1]) / math.sqrt(4)
    loose_error = statistics.stdev([1, 1, 0, 1]) / math.sqrt(4)
    assert summary["prompt_level_strict_acc_stderr"] == pytest.approx(strict_error)
    assert summary["prompt_level_loose_acc_stderr"] == pytest.approx(loose_error)


def test_aggregate_keeps_blank_responses_in_the_mean():
    verdicts = [verify([NO_COMMA], [{}], response) for response in ("text", None)]
    summary = aggregate(iter(verdicts))
    assert summary["prompt_level_strict_acc"] == 0.5
    assert summary["inst_level_strict_acc"] == 0.5


def test_one_prompt_has_no_standard_error():
    summary = aggregate([verify([NO_COMMA], [{}], "text")])
    assert summary["prompt_level_strict_acc_stderr"] is None


def test_nothing_to_aggregate():
    with pytest.raises(InstructionError, match="no verdicts"):
        aggregate([])
