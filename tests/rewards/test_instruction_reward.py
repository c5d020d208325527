import pytest

from uniapl.rewards import instruction_reward

NO_COMMA, QUOTED = "punctuation:no_comma", "startend:quotation"


def reward(all_or_nothing, completion, ids, reason="stop"):
    kwargs = None if ids is None else [{}] * len(ids)
    [value] = instruction_reward(all_or_nothing)(
        prompts=["p"],
        completions=[completion],
        instruction_id_list=[ids],
        kwargs=[kwargs],
        finish_reasons=[reason],
        topic=["sea"],
    )
    return value


@pytest.mark.parametrize(
    ("all_or_nothing", "completion", "expected"),
    [
        (0.0, '"red blue"', 1.0),
        (0.0, '"red, blue"', 0.5),
        (0.0, "red, blue", 0.0),
        (0.25, '"red blue"', 1.0),
        (0.25, '"red, blue"', 0.375),  # 0.75 * 1/2 + 0.25 * 0
        (1.0, '"red, blue"', 0.0),
        (1.0, '"red blue"', 1.0),
    ],
)
def test_share_and_bonus(all_or_nothing, completion, expected):
    assert reward(all_or_nothing, completion, [QUOTED, NO_COMMA]) == pytest.approx(expected)


def test_saying_nothing_or_not_ending_earns_nothing():
    assert reward(0.0, "red blue", [NO_COMMA]) == 1.0
    assert reward(0.0, "", [NO_COMMA]) == 0.0
    assert reward(0.0, " \n", [NO_COMMA]) == 0.0
    assert reward(0.0, "red blue", [NO_COMMA], reason="length") == 0.0


def test_rows_without_instructions_have_no_reward():
    assert reward(0.0, "red", None) is None
    assert reward(0.0, "red", []) is None
    assert reward(0.0, "", None, reason="length") is None
    assert instruction_reward()(completions=["red", "blue"]) == [None, None]


def test_conversational_completions():
    completion = [{"role": "assistant", "content": "red, blue"}]
    assert reward(0.0, completion, [NO_COMMA]) == 0.0


def test_it_is_named_after_its_metric():
    assert instruction_reward().__name__ == "instructions"
