import pytest

from uniapl.errors import InputError
from uniapl.instructions import INSTRUCTION_IDS, InstructionError, follows, validate

WORDS = "length_constraints:number_words"


def problem(instruction_id, kwargs):
    with pytest.raises(InstructionError) as caught:
        validate(instruction_id, kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_there_are_25_ids():
    assert len(INSTRUCTION_IDS) == len(set(INSTRUCTION_IDS)) == 25
    assert list(INSTRUCTION_IDS) == sorted(INSTRUCTION_IDS)


def test_an_instruction_error_is_an_input_error():
    assert issubclass(InstructionError, InputError)


def test_unknown_id():
    assert problem("keyword:existence", {}) == (
        "unknown instruction id 'keyword:existence'; did you mean 'keywords:existence'?"
    )
    assert problem("qqq", {}) == "unknown instruction id 'qqq'"
    assert problem(["a"], {}) == "unknown instruction id ['a']"


def test_unknown_kwarg():
    assert problem(WORDS, {"num_word": 3, "relation": "at least"}) == (
        f"{WORDS}: unknown kwarg 'num_word' (it takes num_words, relation); "
        "did you mean 'num_words'?"
    )
    assert problem("punctuation:no_comma", {"x": 1}) == (
        "punctuation:no_comma: unknown kwarg 'x' (it takes none)"
    )


def test_missing_kwarg():
    assert problem(WORDS, {"num_words": 3}) == f"{WORDS}: kwarg 'relation' is missing"
    assert problem(WORDS, {"num_words": 3, "relation": None}) == (
        f"{WORDS}: kwarg 'relation' is missing"
    )


def test_none_counts_as_absent():
    kwargs = {"num_words": 2, "relation": "at least", "keywords": None, "letter": None}
    validate(WORDS, kwargs)
    assert follows(WORDS, kwargs, "one two")


def test_a_whole_float_is_a_count():
    kwargs = {"num_words": 2.0, "relation": "at least"}
    assert follows(WORDS, kwargs, "one two")
    assert not follows(WORDS, kwargs, "one")


@pytest.mark.parametrize("value", [-1, 2.5, "3", True, float("nan"), float("inf"), [3]])
def test_wrong_count(value):
    assert problem(WORDS, {"num_words": value, "relation": "at least"}) == (
        f"{WORDS}: num_words must be a whole number of at least 0, got {value!r}"
    )


@pytest.mark.parametrize("value", ["at most", "At least", "", 3])
def test_wrong_relation(value):
    assert problem(WORDS, {"num_words": 3, "relation": value}) == (
        f"{WORDS}: relation must be 'at least' or 'less than', got {value!r}"
    )


@pytest.mark.parametrize("value", [[], "sea", ["sea", ""], ["sea", 3], {"sea": 1}])
def test_wrong_keywords(value):
    message = problem("keywords:existence", {"keywords": value})
    assert message.startswith("keywords:existence: keywords must be a non-empty list of strings")


@pytest.mark.parametrize("value", ["", " ", "ab", 3])
def test_wrong_letter(value):
    kwargs = {"letter": value, "let_frequency": 1, "let_relation": "at least"}
    assert "letter must be a single character" in problem("keywords:letter_frequency", kwargs)


@pytest.mark.parametrize("value", ["two words", "it's", "end.", ""])
def test_a_first_word_that_no_response_could_start_with(value):
    kwargs = {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": value}
    message = problem("length_constraints:nth_paragraph_first_word", kwargs)
    assert "first_word must be one word" in message


def test_paragraphs_are_numbered_from_one():
    kwargs = {"num_paragraphs": 2, "nth_paragraph": 0, "first_word": "a"}
    message = problem("length_constraints:nth_paragraph_first_word", kwargs)
    assert "nth_paragraph must be a whole number of at least 1" in message


@pytest.mark.parametrize("value", ["xx", "English", "EN", 3])
def test_a_language_that_cannot_be_detected(value):
    message = problem("language:response_language", {"language": value})
    assert "language must be a language code" in message


def test_kwargs_must_be_a_mapping():
    assert problem(WORDS, None) == f"{WORDS}: kwargs must be a mapping, got None"


def test_a_long_value_is_cut_in_the_message():
    message = problem("keywords:existence", {"keywords": "long " * 100})
    assert len(message) < 180
    assert message.endswith("...")


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("keywords:existence", {"keywords": ["a", "\ud83c"]}),
        ("startend:end_checker", {"end_phrase": "\ud83c"}),
        ("combination:repeat_prompt", {"prompt_to_repeat": "a\ud83c"}),
    ],
)
def test_half_a_surrogate_pair_is_no_text(name, kwargs):
    with pytest.raises(InstructionError, match="can be written as UTF-8"):
        validate(name, kwargs)


def test_counts_that_no_response_has_and_no_float_holds():
    for count in (10**400, 1e300):
        assert not follows(WORDS, {"num_words": count, "relation": "at least"}, "a b")
        assert follows(WORDS, {"num_words": count, "relation": "less than"}, "a b")
    shown = problem(WORDS, {"num_words": -(10**5000), "relation": "at least"})
    assert shown.endswith(
        "must be a whole number of at least 0, got an integer of thousands of digits"
    )
