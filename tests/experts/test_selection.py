"""Which answers become demonstrations, decided by hand."""

from typing import Any

import pytest

from uniapl.experts import Answer, is_settled, judge, repetition_fraction, select, words

COLUMNS: dict[str, Any] = {
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
    "kwargs": [{}, {"relation": "at least", "num_words": 3}],
}


def answer(content: str, finish_reason: str = "stop") -> Answer:
    return Answer(content, finish_reason, "somebody")


def judged(*contents: str):
    return [judge(answer(content), COLUMNS) for content in contents]


def test_a_template_that_opens_the_thought_is_told_apart_from_an_answer_that_mentions_its_end():
    mention = "Close the plan with </think> and answer"
    assert judge(answer(mention), {}).completion == mention
    opened = judge(answer("a, b\n</think>\n\none two three"), COLUMNS, begins_thinking=True)
    assert (opened.completion, opened.share) == ("one two three", 1.0)
    assert judge(answer("one two three"), COLUMNS, begins_thinking=True).flaw == "blank"


@pytest.mark.parametrize(
    ("content", "finish_reason", "completion", "flaw", "share"),
    [
        ("one two three", "stop", "one two three", None, 1.0),
        ("one, two, three", "stop", "one, two, three", None, 0.5),
        ("one, two", "stop", "one, two", None, 0.0),
        # a comma among the thoughts breaks nothing, and words among them fill nothing
        ("<think>a, b, c</think>\n one two three \n", "stop", "one two three", None, 1.0),
        ("<think>one two three</think> one", "stop", "one", None, 0.5),
        ("one two three", "length", "one two three", "finish reason length", 0.0),
        ("one two three", "content_filter", "one two three", "finish reason content_filter", 0.0),
        ("<think>a b c", "stop", "", "blank", 0.0),
        (" \n", "stop", "", "blank", 0.0),
        ("one two \ud83d", "stop", "one two \ud83d", "half a surrogate pair", 0.0),
    ],
)
def test_an_answer_is_checked_without_thoughts_and_flaws(
    content: str, finish_reason: str, completion: str, flaw: str | None, share: float
):
    one = judge(answer(content, finish_reason), COLUMNS)
    assert (one.completion, one.flaw, one.share) == (completion, flaw, share)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("我喜欢学习我喜欢学习" * 40, 0.9, 1.0),
        ("ฉันชอบเรียนหนังสือ" * 40, 0.9, 1.0),
        ("वह घर जाता है " * 40, 0.9, 1.0),
        ("今天天气很好，我们一家人去公园散步。孩子们在草地上奔跑，笑声传得很远！", 0.0, 0.0),
        ("人工智能很好，人工智能很强，人工智能很新。", 0.0, 0.1),
        ("red and blue and red and blue", 0.2, 0.2),
        ("ha" * 200, 0.9, 1.0),
        ("한국어" * 100, 0.9, 1.0),
        ("0" * 500, 0.9, 1.0),
        ("hahaha, and a test_of_every_kind_of_reward_of_the_project", 0.0, 0.0),
        ("Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz ist ein Wort", 0.0, 0.0),
        ("Name: " + "_" * 60, 0.0, 0.0),
    ],
)
def test_repetition_in_any_script(text: str, low: float, high: float):
    assert low - 1e-9 <= repetition_fraction(words(text)) <= high + 1e-9


def test_without_instructions_every_whole_answer_is_as_good():
    for columns in ({}, {"instruction_id_list": [], "kwargs": []}):
        whole, cut = judge(answer("a, b"), columns), judge(answer("a, b", "length"), columns)
        assert (whole.verdict, whole.share) == (None, 1.0)
        assert cut.share == 0.0
        several = [cut, *(judge(answer(text), columns) for text in "cabd")]
        assert select(several, keep=2, min_pass=1.0) == ["c", "a"]


def test_the_best_are_kept_strictly_then_loosely_then_first():
    # `a, b\nc d e`: loosely, without its first line, it has no comma
    loose, half, other = "a, b\nc d e", "a, b, c", "d, e, f"
    all_four = judged(half, other, loose, "x y z")
    assert select(all_four, keep=4, min_pass=0.5) == ["x y z", loose, half, other]
    assert select(all_four, keep=2, min_pass=0.5) == ["x y z", loose]
    assert select(all_four, keep=4, min_pass=1.0) == ["x y z"]
    assert select(judged(half), keep=1, min_pass=0.51) == []


def test_a_flawed_answer_is_kept_at_no_threshold():
    cut = judge(answer("one two three", "length"), COLUMNS)
    assert select([cut], keep=1, min_pass=0.0) == []
    assert select(judged("a, b"), keep=1, min_pass=0.0) == ["a, b"]


def test_the_same_completion_counts_once():
    twice = judged("x y z", "x y z ", "u v w")
    assert select(twice, keep=3, min_pass=1.0) == ["x y z", "u v w"]
    assert not is_settled(twice[:2], keep=2)
    assert is_settled(twice, keep=2)


def test_only_perfect_answers_settle_a_prompt():
    assert not is_settled(judged("a, b, c"), keep=1)
    assert is_settled(judged("a, b, c", "x y z"), keep=1)
    assert not is_settled([], keep=1)


def revised(content: str, finish_reason: str = "stop", **columns: Any):
    return judge(answer(content, finish_reason), columns or COLUMNS, revises=True)


def test_a_revision_takes_the_place_of_an_answer_that_fails():
    failed = revised("Red, blue and green are colours.")
    assert failed.completion == "Red blue and green are colours."
    assert (failed.share, failed.is_revised) == (1.0, True)
    assert failed.raw_verdict is not None
    assert failed.raw_verdict.strict == (False, True)
    # whole or without instructions: as it came
    assert not revised("one two three").is_revised
    assert revised("red, blue", other="column").completion == "red, blue"


def test_an_answer_that_was_cut_off_is_cut_back_to_whole_sentences():
    cut = revised("Red and blue are colours. Green is", "length")
    assert (cut.completion, cut.flaw, cut.share) == ("Red and blue are colours.", None, 1.0)
    for content, reason, flaw in [
        ("Red and blue are colours. Green is", "content_filter", "finish reason content_filter"),
        ("Red and blue are colours. \ud83d", "stop", "half a surrogate pair"),
        ("", "length", "finish reason length"),
    ]:
        assert revised(content, reason).flaw == flaw


def test_an_answer_as_it_came_is_preferred_to_a_revised_one():
    one, other = revised("Red, blue and green are colours."), revised("One two three.")
    assert select([one, other], 1, 1.0) == ["One two three."]
    assert select([one, other], 2, 1.0) == ["One two three.", "Red blue and green are colours."]
    assert is_settled([one], 1)


@pytest.mark.parametrize(
    ("content", "max_repetition", "flaw"),
    [
        ("the sea is the sea is", 0.25, None),  # 1 of 4 3-grams came before
        ("the sea is the sea is", 0.24, "repeats itself"),
        ("the sea is the sea is the sea is the sea is", 0.0, "repeats itself"),
        ("The sea. the SEA. the", 0.0, "repeats itself"),
        ("the sea the sea", 0.0, None),  # pairs do not count
        ("the sea is " * 50, 1.0, None),
    ],
)
def test_an_answer_that_repeats_itself_is_no_demonstration(
    content: str, max_repetition: float, flaw: str | None
):
    one = judge(answer(content), COLUMNS, max_repetition=max_repetition)
    assert one.flaw == flaw
    assert one.share == (0.0 if flaw else 1.0)
    assert select([one], 1, 0.0) == ([] if flaw else [content.strip()])
    assert is_settled([one], 1) == (flaw is None)


def test_the_revision_is_what_must_not_repeat_itself():
    """An answer that loops within its broken last sentence is whole without it."""
    cut_off = answer("I like the sea. " + "the sea is " * 50, "length")
    one = judge(cut_off, COLUMNS, revises=True, max_repetition=0.1)
    assert (one.completion, one.flaw, one.is_revised) == ("I like the sea.", None, True)
    looping = answer("I like the sea. " * 10, "length")
    assert judge(looping, COLUMNS, revises=True, max_repetition=0.1).flaw == "repeats itself"
