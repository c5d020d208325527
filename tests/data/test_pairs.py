import json

import pytest

from uniapl.data.chat import Chat
from uniapl.data.pairs import load_pairs
from uniapl.errors import InputError

USER = {"role": "user", "content": "Write about the sea."}
GOOD = {"role": "assistant", "content": "The sea is calm."}
BAD = {"role": "assistant", "content": "No."}


@pytest.fixture
def chat(chatml):
    return Chat(chatml)


@pytest.fixture
def write(tmp_path):
    def write_rows(*rows):
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write_rows


TEXTS = {"prompt": "Write about the sea.", "chosen": "The sea is calm.", "rejected": "No."}
LLMBAR = {"input": TEXTS["prompt"], "output_1": "No.", "output_2": "The sea is calm.", "label": 2}


@pytest.mark.parametrize(
    "row",
    [
        TEXTS,
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [USER], "chosen": "The sea is calm.", "rejected": [BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        # as tables fill them in
        {"chosen": [USER | {"tool_calls": None}, GOOD], "rejected": [USER, BAD], "label": None},
        LLMBAR,
        LLMBAR | {"output_1": LLMBAR["output_2"], "output_2": "No.", "label": 1},
        LLMBAR | {"label": 2.0},
        {"query": TEXTS["prompt"], "chosen": GOOD, "rejected": BAD},
        {"messages": [USER], "chosen": GOOD, "rejected": [BAD]},
        {
            "conversations": [{"from": "human", "value": TEXTS["prompt"]}],
            "chosen": {"from": "gpt", "value": "The sea is calm."},
            "rejected": {"from": "gpt", "value": "No."},
        },
    ],
)
def test_every_shape_gives_the_same_pair(chat, write, row):
    [pair] = load_pairs(write(row | {"id": 7, "subset": "s"}), chat)
    assert (pair.chosen, pair.rejected) == ("The sea is calm.", "No.")
    assert pair.chosen_ids == chat.encode_completion("The sea is calm.")
    assert pair.rejected_ids == chat.encode_completion("No.")
    prompt = pair.prompt
    assert prompt.id == "7"
    assert prompt.messages == (USER,)
    assert prompt.token_ids == chat.encode_prompt([USER])
    is_text = isinstance(row.get("prompt"), str) or "input" in row or "query" in row
    assert prompt.is_conversational is not is_text
    expected = {"id": 7, "subset": "s"} | ({"label": None} if row.get("label", 0) is None else {})
    assert prompt.columns == expected


def test_conversations_win_over_a_prompt_column(chat, write):
    # some public data sets repeat the first turn as a string
    first = [USER, BAD, USER]
    [pair] = load_pairs(
        write({"prompt": "Hi", "chosen": [*first, GOOD], "rejected": [*first, BAD]}), chat
    )
    assert pair.prompt.messages == tuple(first)
    assert pair.prompt.columns == {"prompt": "Hi"}


def test_without_a_chat_there_are_no_ids(write):
    [pair] = load_pairs(write(TEXTS), None)
    assert (pair.prompt.token_ids, pair.chosen_ids, pair.rejected_ids) == ((), (), ())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (TEXTS | {"rejected": TEXTS["chosen"]}, "the two completions are identical"),
        (TEXTS | {"chosen": " \n"}, "`chosen` is blank"),
        (TEXTS | {"prompt": ""}, "`prompt` is blank"),
        (TEXTS | {"rejected": None}, "no columns `chosen` and `rejected`, nor `input`"),
        ({"prompt": "a", "chosen": "b", "rejcted": "c"}, "; did you mean `rejcted`?"),
        (
            {"chosen": "b", "rejected": "c"},
            "no prompt beside `chosen` and `rejected`, which are not both conversations",
        ),
        ({"chosen": [USER, GOOD], "rejected": [BAD]}, "no prompt beside `chosen` and `rejected`"),
        (
            {"prompt": [USER], "chosen": [USER, GOOD], "rejected": "c"},
            "`chosen` must be one assistant",
        ),
        ({"chosen": [USER, GOOD], "rejected": [USER | {"content": "x"}, BAD]}, "differ before"),
        ({"chosen": [USER, GOOD], "rejected": [USER, USER]}, "`rejected` must end in an assistant"),
        ({"chosen": [BAD, GOOD], "rejected": [BAD, BAD]}, "`chosen` needs a user turn before"),
        (TEXTS | {"chosen": {"a": 1}}, "`chosen[0]` needs `role` (or `from`) as text, got None"),
        (TEXTS | {"chosen": 5}, "`chosen` must be text or one assistant turn, got int"),
        (
            {"messages": [USER, GOOD], "chosen": "a", "rejected": "b"},
            "the turns beside `chosen` and `rejected` must end in a user turn",
        ),
        (LLMBAR | {"label": 0}, "`label` must be 1 or 2, the better output, got 0"),
        (LLMBAR | {"label": True}, "`label` must be 1 or 2, the better output, got True"),
        (LLMBAR | {"output_1": " "}, "`output_1` is blank"),
        (LLMBAR | {"output_1": ["a"]}, "`output_1` must be text, got list"),
        (LLMBAR | {"label": None, "lable": 1}, "; did you mean `lable`?"),
        (TEXTS | {"prompt": "xq " * 99}, "more than max_prompt_tokens 100"),
    ],
)
def test_a_wrong_row_is_named(chat, write, row, message):
    path = write(TEXTS, row)
    with pytest.raises(InputError) as caught:
        load_pairs(path, chat, max_prompt_tokens=100)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_prompt_of_a_pair_has_any_shape(chat, write):
    system = {"system": "Be brief."}
    sides = {"chosen": "The sea is calm.", "rejected": "No."}
    rows = [
        {"instruction": "Write about it.", "input": "the sea", **sides, **system},
        {"question": "Write about it.\n\nthe sea", **sides, **system},
    ]
    expected = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Write about it.\n\nthe sea"},
    ]
    for pair in load_pairs(write(*rows), chat):
        assert list(pair.prompt.messages) == expected
        assert pair.prompt.columns == {}


def test_pairs_under_other_names(chat, write):
    path = write({"q": "Write about the sea.", "good": "The sea is calm.", "bad": "No."})
    names = {"prompt": "q", "chosen": "good", "rejected": "bad", "completion": "reply"}
    [pair] = load_pairs(path, chat, columns=names)
    assert (pair.prompt.text, pair.chosen) == ("Write about the sea.", "The sea is calm.")
    with pytest.raises(InputError) as caught:
        load_pairs(path, chat, columns=names | {"chosen": "goood"})
    assert str(caught.value) == (
        f"{path}: no column `goood`, which `columns` names for `chosen`; the nearest is `good`"
    )
