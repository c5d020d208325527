"""IFBench's types through if-verifiable: both ways, and what it would leave to chance."""

import os

import pytest

from uniapl.instructions import InstructionError

pytest.importorskip("if_verifiable")

from uniapl.evaluation.ifbench import verify_ifbench

RANGE = "count:word_count_range"


@pytest.fixture(autouse=True, scope="module")
def _nltk_data():
    data = os.environ.get("UNIAPL_DATA")
    if not data:
        pytest.skip("UNIAPL_DATA is not set: no NLTK data")
    import nltk

    nltk.data.path.insert(0, f"{data}/nltk_data")


def test_both_ways():
    kwargs = [{"min_words": 2, "max_words": 3, "other": None}]
    assert verify_ifbench([RANGE], kwargs, "p", "red blue").strict == (True,)
    assert verify_ifbench([RANGE], kwargs, "p", "red").strict == (False,)
    longer = verify_ifbench([RANGE], kwargs, "p", "Sure, here you are:\nred blue")
    assert (longer.strict, longer.loose) == ((False,), (True,))


@pytest.mark.parametrize("response", [None, "", " \n"])
def test_a_blank_response_fails(response: str | None):
    verdict = verify_ifbench([RANGE], [{"min_words": 0, "max_words": 3}], "p", response)
    assert verdict.strict == verdict.loose == (False,)


def test_a_crash_of_their_checker_is_a_failed_instruction():
    assert verify_ifbench(["format:quote_unquote"], [{}], "p", "...").strict == (False,)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("count:no_such", {}, "unknown instruction id 'count:no_such'"),
        (RANGE, {"min_words": 2}, "kwarg 'max_words' is missing"),
        (RANGE, {"words": 2}, "unexpected keyword argument 'words'"),
    ],
)
def test_nothing_is_left_to_chance(name: str, kwargs: dict, message: str):
    with pytest.raises(InstructionError, match=message):
        verify_ifbench([name], [kwargs], "p", "red blue")
