import pytest

from uniapl.instructions import follows


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Text. Any questions?", True),
        ("Text. any QUESTIONS?  \n", True),
        ('"Text. Any questions?"', True),
        ("Text. Any questions? Yes.", False),
        ("Text.", False),
    ],
)
def test_end_checker(response, expected):
    kwargs = {"end_phrase": " Any questions? "}
    assert follows("startend:end_checker", kwargs, response) is expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ('"text"', True),
        (' "text"\n', True),
        ('""', True),
        ('"', False),
        ('"text', False),
        ("'text'", False),
        ("“text”", False),
        ('say "text"', False),
    ],
)
def test_quotation(response, expected):
    assert follows("startend:quotation", {}, response) is expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("one\n******\ntwo", True),
        ("******one******two******", True),
        ("one\n******\none ", False),  # the same twice
        ("one", False),
        ("one******two******three", False),
        ("one****** ******two", False),  # blank in the middle
        ("one\n***\ntwo", False),
    ],
)
def test_two_responses(response, expected):
    assert follows("combination:two_responses", {}, response) is expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Write a poem. Roses are red.", True),
        ("\nwrite A poem.\n\nRoses", True),
        ("Write a poem.", True),
        ("Sure! Write a poem. Roses", False),
        ("Write a poem Roses", False),
    ],
)
def test_repeat_prompt(response, expected):
    kwargs = {"prompt_to_repeat": "Write a poem.\n"}
    assert follows("combination:repeat_prompt", kwargs, response) is expected


def test_no_comma():
    assert follows("punctuation:no_comma", {}, "red and blue")
    for other in ("你好，世界", "山、川", "أحمر، أزرق", "ሰማይ፣ ባሕር"):
        assert not follows("punctuation:no_comma", {}, other)
        # IFEval knows the English one alone
        assert follows("punctuation:no_comma", {}, other, official=True)
    assert follows("punctuation:no_comma", {}, "red; blue ʽ 12٬000 ș")
    assert not follows("punctuation:no_comma", {}, "red, blue")
