import gzip
import json
import re

import pytest

from uniapl.data.chat import Chat
from uniapl.data.readers import expert_demonstration, load_demonstrations, load_prompts
from uniapl.errors import InputError


@pytest.fixture
def chat(chatml):
    return Chat(chatml)


@pytest.fixture
def write(tmp_path):
    def write_rows(*rows, name="data.jsonl"):
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write_rows


def problems(load, path, *arguments, **keywords):
    """Return the lines of the error, with the file's folder taken off."""
    with pytest.raises(InputError) as caught:
        load(path, *arguments, **keywords)
    return str(caught.value).replace(f"{path.parent}/", "").split("\n")


NO_PROMPT = "no column `messages`, `conversations`, `prompt`, `instruction`, `query` or `question`"
USER = {"role": "user", "content": "Write about the sea."}
EXPERT = {"role": "assistant", "content": "The sea is calm."}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, EXPERT]},
        {"prompt": [USER], "completion": [EXPERT]},
        {"prompt": [USER], "completion": EXPERT["content"]},
        {"prompt": USER["content"], "completion": EXPERT["content"]},
        {"prompt": USER["content"], "completion": [EXPERT]},
        # as Parquet and the hub fill tables in, and beside a column that repeats the prompt
        {"messages": [USER | {"tool_calls": None}, EXPERT], "completion": None},
    ],
)
def test_every_shape_gives_the_same_demonstration(chat, write, row):
    path = write(row | {"topic": "sea", "id": 7})
    [demonstration] = load_demonstrations(path, chat)
    assert demonstration.completion == "The sea is calm."
    assert demonstration.token_ids == chat.encode_completion("The sea is calm.")
    prompt = demonstration.prompt
    assert prompt.id == "7"
    assert prompt.messages == (USER,)
    assert prompt.text == "Write about the sea."
    assert prompt.token_ids == chat.encode_prompt([USER])
    assert prompt.is_conversational is not isinstance(row.get("prompt"), str)
    assert prompt.columns == {"topic": "sea", "id": 7}


def test_messages_win_over_a_prompt_column(chat, write):
    # some public data sets repeat the first turn as a string
    path = write({"prompt": "Hi", "messages": [USER, EXPERT, USER, EXPERT]})
    [demonstration] = load_demonstrations(path, chat)
    assert demonstration.prompt.messages == (USER, EXPERT, USER)
    assert demonstration.prompt.columns == {"prompt": "Hi"}


def test_prompts_may_carry_an_expert_completion(chat, write):
    path = write(
        {"key": 1000, "prompt": "Hi"},
        {"key": "b", "prompt": [USER], "completion": [EXPERT]},
        {"messages": [USER, EXPERT]},
        {"messages": [USER]},
    )
    first, second, third, fourth = load_prompts(path, chat)
    assert [one.id for one in (first, second, third, fourth)] == ["1000", "b", "3", "4"]
    assert first.columns == {"key": 1000}
    assert expert_demonstration(first, chat) is expert_demonstration(fourth, chat) is None
    for prompt in (second, third):
        assert prompt.columns["completion"] == "The sea is calm."
        demonstration = expert_demonstration(prompt, chat)
        assert demonstration is not None
        assert demonstration.token_ids == chat.encode_completion("The sea is calm.")


def test_instructions_lose_their_null_kwargs(chat, write):
    row = {
        "prompt": "Hi",
        "instruction_id_list": ["a:b", "c:d"],
        "kwargs": [{"num": 3, "word": None}, None],
    }
    seen = []
    [prompt] = load_prompts(write(row), chat, validate_row=seen.append)
    assert prompt.columns == {"instruction_id_list": ["a:b", "c:d"], "kwargs": [{"num": 3}, {}]}
    assert seen == [prompt.columns]


def test_a_system_prompt_becomes_part_of_the_prompt(chatml, write):
    chat = Chat(chatml, system_prompt="Be kind.")
    [prompt] = load_prompts(write({"prompt": "Hi"}), chat)
    assert [turn["role"] for turn in prompt.messages] == ["system", "user"]
    assert prompt.token_ids == chat.encode_prompt("Hi")
    assert (prompt.text, prompt.is_conversational) == ("Hi", False)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"text": "x", "promt": "Hi"},
            f"{NO_PROMPT}; did you mean `promt`? (the row has: text, promt)",
        ),
        ({"a": 1, "prompt": None}, f"{NO_PROMPT} (the row has: a)"),
        ({}, f"{NO_PROMPT} (the row has: nothing)"),
        ({"prompt": "Hi"}, "no column `completion` or `response` (the row has: prompt)"),
        (
            {"prompt": "Hi", "completions": "x"},
            "no column `completion` or `response`; did you mean `completions`? "
            "(the row has: prompt, completions)",
        ),
        ({"prompt": " \n", "completion": "x"}, "`prompt` is blank"),
        ({"prompt": "Hi", "completion": " "}, "`completion` is blank"),
        ({"messages": [USER, EXPERT | {"content": ""}]}, "the last assistant turn is blank"),
        ({"messages": [USER | {"content": " "}, EXPERT]}, "the last user turn is blank"),
        (
            {"messages": [USER, EXPERT | {"reasoning_content": "Hm."}]},
            "the last assistant turn has its thoughts in `reasoning_content`; write <think>…</think> before the answer",
        ),
        (
            {"prompt": "Hi", "completion": [EXPERT | {"thinking": "Hm."}]},
            "`completion` has its thoughts in `thinking`; write <think>…</think> before the answer",
        ),
        (
            {"prompt": "Hi", "completion": "x", "images": ["a.png"]},
            "the row has `images`; only text is supported",
        ),
        ({"messages": [USER]}, "`messages` must end in an assistant turn, the last is `user`"),
        (
            {"messages": [EXPERT]},
            "`messages` needs a user turn before the last assistant turn, has nothing",
        ),
        ({"messages": "Hi"}, "`messages` must be a list of turns, got str"),
        ({"prompt": 3, "completion": "x"}, "`prompt` must be text or a list of turns, got int"),
        (
            {"prompt": [], "completion": "x"},
            "`prompt` must be text or a list of turns, got an empty list",
        ),
        (
            {"prompt": [USER, EXPERT], "completion": "x"},
            "`prompt` must end in a user turn, the last is `assistant`",
        ),
        (
            {"prompt": "Hi", "completion": [USER, EXPERT]},
            "`completion` must be one assistant turn, got: user, assistant",
        ),
        ({"messages": ["Hi"]}, "`messages[0]` must be a turn (role and content), got str"),
        (
            {"messages": [{"role": "user"}]},
            "`messages[0]` needs `content` (or `value`) as text, got None",
        ),
        (
            {"messages": [USER | {"content": [{"type": "image"}]}]},
            "`messages[0]` holds a part of type 'image'; only text is supported",
        ),
        (
            {"messages": [USER, EXPERT | {"tool_calls": [{}]}]},
            "`messages[1]` carries `tool_calls`; tools are not supported, only text is",
        ),
        (
            {"prompt": "Hi", "completion": "x\ud83d"},
            "`completion` holds half a surrogate pair, \\ud83d",
        ),
        (
            {"prompt": "Hi", "completion": "x", "id": 1.5},
            "`id` must be a string or a whole number, got 1.5",
        ),
        (
            {"prompt": "Hi", "completion": "x", "instruction_id_list": "a:b", "kwargs": [{}]},
            "`instruction_id_list` must be a list of strings",
        ),
        (
            {"prompt": "Hi", "completion": "x", "instruction_id_list": ["a:b"]},
            "`instruction_id_list` needs `kwargs`, a list of one object for each",
        ),
        (
            {"prompt": "Hi", "completion": "x", "instruction_id_list": ["a:b"], "kwargs": [3]},
            "`kwargs` must be a list of objects",
        ),
        (
            {"prompt": "Hi", "completion": "x", "instruction_id_list": ["a:b"], "kwargs": []},
            "1 in `instruction_id_list` but 0 in `kwargs`",
        ),
    ],
)
def test_wrong_rows_say_what_is_wrong_and_where(chat, write, row, message):
    path = write({"prompt": "Hi", "completion": "x"}, row)
    assert problems(load_demonstrations, path, chat) == [f"data.jsonl:2: {message}"]


def test_prompts_that_are_too_long_are_errors(chat, write):
    long = {"prompt": "sea " * 20}
    length = len(chat.encode_prompt(long["prompt"]))
    path = write({"prompt": "Hi"}, long)
    assert len(load_prompts(path, chat, max_prompt_tokens=length)) == 2
    assert problems(load_prompts, path, chat, max_prompt_tokens=length - 1) == [
        f"data.jsonl:2: the prompt has {length} tokens, more than max_prompt_tokens {length - 1}"
    ]


def test_duplicate_ids_are_errors(chat, write):
    path = write({"key": 2, "prompt": "a"}, {"key": "2", "prompt": "c"})
    lines = problems(load_prompts, path, chat)
    assert [line.replace(f"{path.parent}/", "") for line in lines] == [
        "data.jsonl:2: duplicate id 2, already at data.jsonl:1"
    ]


def test_a_line_number_is_never_another_rows_key(chat, write):
    rows = [{"prompt": "a"}, {"key": 4, "prompt": "b"}, {"key": "row 1", "prompt": "c"}]
    path = write(*rows, {"prompt": "d"}, {"key": 1, "prompt": "e"})
    ids = [prompt.id for prompt in load_prompts(path, chat)]
    assert ids == ["row row 1", "4", "row 1", "row 4", "1"]


def test_the_callers_check_gets_a_place(chat, write):
    def check(columns):
        if "bad" in columns:
            raise InputError(f"unknown instruction {columns['bad']}")

    path = write({"prompt": "Hi"}, {"prompt": "Hi", "bad": "x:y"})
    assert problems(load_prompts, path, chat, validate_row=check) == [
        "data.jsonl:2: unknown instruction x:y"
    ]


def test_all_problems_come_at_once_and_equal_ones_as_one(chat, write):
    broken = [{"prompt": "Hi", "id": number + 0.5} for number in range(14)]
    path = write({"prompt": ""}, "{", {"prompt": ""}, {"prompt": ""}, *broken)
    lines = problems(load_prompts, path, chat)
    assert lines[0] == "data.jsonl:1: `prompt` is blank (and 2 more rows)"
    assert lines[1].startswith("data.jsonl:2: not JSON: ")
    assert lines[2] == "data.jsonl:5: `id` must be a string or a whole number, got 0.5"
    assert lines[10:] == ["... and 6 more"]


def test_the_limit_stops_before_what_it_leaves_out(chat, write):
    path = write({"prompt": "a"}, {"prompt": "b"}, "{")
    assert [prompt.text for prompt in load_prompts(path, chat, limit=2)] == ["a", "b"]
    with pytest.raises(InputError, match=r"^limit must be at least 1, got 0$"):
        load_prompts(path, chat, limit=0)


def test_a_template_that_refuses_a_row_names_it(tokenizer_of, write):
    path = write({"prompt": [{"role": "system", "content": "Be kind."}, USER]})
    [line] = problems(load_prompts, path, Chat(tokenizer_of("gemma")))
    assert line.startswith("data.jsonl:1: the chat template refuses these messages: System role")


def test_gzip_and_json_arrays_read_alike(chat, write, tmp_path):
    rows = [{"prompt": "a", "n": 1}, {"prompt": "b", "n": None}]
    plain = load_prompts(write(*rows), chat)
    assert [prompt.columns for prompt in plain] == [{"n": 1}, {"n": None}]
    zipped = tmp_path / "data.jsonl.gz"
    zipped.write_bytes(gzip.compress("\n\n".join(map(json.dumps, rows)).encode()))
    assert [prompt.id for prompt in load_prompts(zipped, chat)] == ["1", "3"]  # line numbers
    array = write(json.dumps(rows, indent=1), name="data.json")
    assert load_prompts(array, chat) == plain
    lines = write(*rows, name="lines.json")
    assert load_prompts(lines, chat) == plain


def test_parquet_reads_alike(chat, write, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [
        {"prompt": "a", "instruction_id_list": ["x:y"], "kwargs": [{"num": 1}]},
        {"prompt": "b", "instruction_id_list": ["x:z"], "kwargs": [{"word": "w"}]},
    ]
    path = tmp_path / "data.parquet"
    # a table gives every row every key
    fill = [row | {"kwargs": [{"num": None, "word": None} | row["kwargs"][0]]} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(fill), path)
    assert load_prompts(path, chat) == load_prompts(write(*rows), chat)
    with pytest.raises(InputError, match=re.escape("data.parquet row 1: no column `completion`")):
        load_demonstrations(path, chat)
