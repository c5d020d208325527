"""Every shape of a row means the same; a row of two shapes, or of none that training knows, is one line."""

import json

import pytest

from uniapl.config.checks import COLUMN_NAMES
from uniapl.data.chat import Chat
from uniapl.data.readers import load_demonstrations, load_prompts
from uniapl.data.shapes import NAMES, SHAPES
from uniapl.errors import InputError

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Name a sea."}
EXPERT = {"role": "assistant", "content": "The Baltic."}
SHAREGPT = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "Name a sea."},
    {"from": "gpt", "value": "The Baltic."},
]


def parts(*texts):
    return [{"type": "text", "text": text, "image_url": None} for text in texts]


@pytest.fixture
def chat(chatml):
    return Chat(chatml)


@pytest.fixture
def write(tmp_path):
    def write_rows(*rows, name="data.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write_rows


def error_of(load, path, chat, **arguments):
    with pytest.raises(InputError) as caught:
        load(path, chat, **arguments)
    return str(caught.value).replace(f"{path.parent}/", "")


ROWS = {
    "messages": {"messages": [SYSTEM, USER, EXPERT]},
    "messages of parts": {
        "messages": [SYSTEM | {"content": parts("Be brief.")}, USER, EXPERT | {"tool_calls": []}]
    },
    "messages and system": {"messages": [USER, EXPERT], "system": "Be brief."},
    "prompt": {"prompt": "Name a sea.", "completion": "The Baltic.", "system": "Be brief."},
    "prompt of turns": {"prompt": [SYSTEM, USER], "completion": [EXPERT]},
    "response": {"prompt": "Name a sea.", "response": "The Baltic.", "system": "Be brief."},
    "alpaca": {
        "system": "Be brief.",
        "instruction": "Name a sea.",
        "input": "",
        "output": "The Baltic.",
        "history": [],
    },
    "sharegpt": {"conversations": SHAREGPT, "system": None},
    "sharegpt and system": {"conversations": SHAREGPT[1:], "system": "Be brief."},
    "sharegpt in OpenAI's keys": {"conversations": [SYSTEM, USER, EXPERT]},
    "query": {"query": "Name a sea.", "response": "The Baltic.", "system": "Be brief."},
    "question": {"question": "Name a sea.", "answer": "The Baltic.", "system": "Be brief."},
    "orca": {"question": "Name a sea.", "response": "The Baltic.", "system": "Be brief."},
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_shape_means_the_same(chat, write, row):
    path = write(row | {"topic": "sea"})
    [demonstration] = load_demonstrations(path, chat)
    assert demonstration.completion == "The Baltic."
    assert demonstration.prompt.messages == (SYSTEM, USER)
    assert demonstration.prompt.token_ids == chat.encode_prompt([SYSTEM, USER])
    assert demonstration.prompt.columns == {"topic": "sea"}
    assert demonstration.prompt.is_conversational
    [prompt] = load_prompts(path, chat)
    assert (prompt.messages, prompt.columns["completion"]) == ((SYSTEM, USER), "The Baltic.")


def test_every_shape_is_in_the_test_above():
    shown = {shape for row in ROWS.values() for shape in SHAPES if set(shape.columns) <= set(row)}
    assert shown == set(SHAPES)


def test_a_column_for_system_prompts_makes_all_rows_conversations(chat, write):
    # else a reward function would get texts from some rows of a table and messages from the others
    path = write({"prompt": "Hi", "system": ""}, {"prompt": "Hi", "system": "Be brief."})
    assert [p.is_conversational for p in load_prompts(path, chat)] == [True, True]
    [plain] = load_prompts(write({"prompt": "Hi"}), chat)
    assert not plain.is_conversational


def test_parts_of_text_are_joined_by_a_line_break(chat, write):
    row = {
        "messages": [USER | {"content": parts("Name", "a sea.")}, EXPERT | {"content": parts("A")}]
    }
    [demonstration] = load_demonstrations(write(row), chat)
    assert demonstration.prompt.text == "Name\na sea."
    assert demonstration.completion == "A"


def test_alpacas_input_and_history(chat, write):
    row = {"instruction": "Translate.", "input": "das Meer", "output": "the sea"}
    history = [["Hi", "Hello."], ["How are you?", "Well."]]
    first, second = load_demonstrations(write(row, row | {"history": history}), chat)
    assert first.prompt.messages == ({"role": "user", "content": "Translate.\n\ndas Meer"},)
    assert [turn["content"] for turn in second.prompt.messages] == [
        "Hi", "Hello.", "How are you?", "Well.", "Translate.\n\ndas Meer",
    ]  # fmt: skip
    assert [t["role"] for t in second.prompt.messages] == ["user", "assistant"] * 2 + ["user"]
    assert second.prompt.columns == {}
    line = error_of(load_demonstrations, write(row | {"history": ["Hi"]}), chat)
    assert line == "data.jsonl:1: `history` must be a list of [question, answer]"


def test_an_answer_stays_for_rewards_that_compare_with_it(chat, write):
    [prompt] = load_prompts(write({"question": "1 + 1?", "answer": "2"}), chat)
    assert prompt.columns == {"answer": "2", "completion": "2"}


def test_a_prompt_without_a_completion_is_of_its_shape_too(chat, write):
    rows = [{name: "Name a sea."} for name in ("prompt", "instruction", "query", "question")]
    rows += [{"prompt": "Name a sea.", "question": "A sea?", "instruction": None}]
    loaded = load_prompts(write(*rows), chat)
    assert [prompt.text for prompt in loaded] == ["Name a sea."] * 5
    assert loaded[-1].columns == {"question": "A sea?"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "a", "completion": "b", "instruction": "c", "output": "d"},
            "two shapes fit, `prompt` with `completion` and `instruction` with `output`: remove one, or say "
            "which in `columns`, such as {prompt: prompt, completion: completion}",
        ),
        (
            {"messages": [USER, EXPERT], "conversations": SHAREGPT},
            "two shapes fit, `messages` and `conversations`: remove one, or say which in `columns`, such "
            "as {messages: messages}",
        ),
        (
            {"question": "a", "answer": "b", "response": "c"},
            "two shapes fit, `question` with `answer` and `question` with `response`: remove one, or say "
            "which in `columns`, such as {question: question, answer: answer}",
        ),
        (
            {"instruction": "a", "respnse": "b"},
            "no column `output` (the row has: instruction, respnse)",
        ),
        (
            {"question": "a", "anwser": "b"},
            "no column `answer` or `response`; did you mean `anwser`? (the row has: question, anwser)",
        ),
        (
            {"conversations": [SHAREGPT[1], {"from": "function_call", "value": "f()"}]},
            "`conversations[1]` is a turn of 'function_call'; supported are system, developer, user, human, "
            "assistant, gpt, no tools",
        ),
        (
            {"messages": [USER, {"role": "tool", "content": "3"}, EXPERT]},
            "`messages[1]` is a turn of 'tool'; supported are system, developer, user, human, assistant, "
            "gpt, no tools",
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}]},
            "`messages[1]` carries `tool_calls`; tools are not supported, only text is",
        ),
        (
            {"messages": [USER | {"content": [*parts("Look"), {"type": "image_url"}]}, EXPERT]},
            "`messages[0]` holds a part of type 'image_url'; only text is supported",
        ),
        (
            {"messages": [SYSTEM, USER, EXPERT], "system": "Be kind."},
            "`system` and a system turn both give a system prompt; remove one",
        ),
        ({"prompt": "a", "completion": "b", "system": ["c"]}, "`system` must be text, got list"),
        ({"question": "a", "answer": 42}, "`answer` must be text or one assistant turn, got int"),
        ({"conversations": []}, "`conversations` must be a list of turns, got an empty list"),
    ],
)
def test_a_row_that_no_shape_takes_is_one_line(chat, write, row, message):
    good = {"prompt": "Hi", "completion": "x"}
    assert error_of(load_demonstrations, write(good, row), chat) == f"data.jsonl:2: {message}"


def test_two_shapes_of_a_prompt(chat, write):
    row = {"prompt": "Solve it.", "question": "1 + 1?", "answer": "2"}
    line = error_of(load_prompts, write(row), chat)
    assert line.startswith("data.jsonl:1: two shapes fit, `question` with `answer` and `prompt`: ")
    [prompt] = load_prompts(write(row), chat, columns={"prompt": "prompt"})
    assert (prompt.text, prompt.columns) == ("Solve it.", {"question": "1 + 1?", "answer": "2"})


def test_columns_under_other_names(chat, write):
    row = {"task": "Name a sea.", "reply": "The Baltic.", "role": "Be brief.", "uid": 7, "n": 1}
    names = {"prompt": "task", "completion": "reply", "system": "role", "key": "uid"}
    path = write(row | {"prompt": "another"})
    [demonstration] = load_demonstrations(path, chat, columns=names)
    assert demonstration.prompt.messages == (SYSTEM, USER)
    assert (demonstration.completion, demonstration.prompt.id) == ("The Baltic.", "7")
    assert demonstration.prompt.columns == {"n": 1, "key": 7}
    # a file of prompts may lack what only demonstrations have, and what only pairs have
    names |= {"chosen": "good"}
    [prompt] = load_prompts(write({"task": "Hi", "role": "", "uid": "a"}), chat, columns=names)
    assert (prompt.id, prompt.text) == ("a", "Hi")
    turns = write({"dialog": SHAREGPT})
    [demonstration] = load_demonstrations(turns, chat, columns={"messages": "dialog"})
    assert demonstration.prompt.messages == (SYSTEM, USER)


def test_a_name_that_the_file_lacks_comes_with_the_nearest_column(chat, write):
    path = write({"question": "a", "answer": "b"}, {"question": "c", "answer": "d", "note": "e"})
    names = {"prompt": "qestion", "completion": "answer"}
    assert error_of(load_demonstrations, path, chat, columns=names) == (
        "data.jsonl: no column `qestion`, which `columns` names for `prompt`; the nearest is `question`"
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"prompt": "a", "output": "b"},
            "columns: no shape has `prompt` and `output`; `prompt` and `completion` will do",
        ),
        (
            {"prompt": "a", "completion": "a"},
            "columns: prompt and completion cannot both be `a`",
        ),
    ],
)
def test_names_that_make_no_sense(chat, write, columns, message):
    assert error_of(load_demonstrations, write({"a": "x"}), chat, columns=columns) == message


def test_the_config_knows_every_name():
    assert set(COLUMN_NAMES) == set(NAMES)


def test_an_answer_that_is_a_number_can_stay_a_column(chat, write):
    path = write({"question": "6 * 7?", "answer": 42})
    assert "`answer` must be text" in error_of(load_prompts, path, chat)
    [prompt] = load_prompts(path, chat, columns={"prompt": "question"})
    assert (prompt.text, prompt.columns) == ("6 * 7?", {"answer": 42})
