"""Which response answers which prompt."""

import json
from pathlib import Path

import pytest

from uniapl.errors import InputError
from uniapl.evaluation.responses import match_responses
from uniapl.types import Prompt


def prompts(*named: tuple[str, str]) -> list[Prompt]:
    return [Prompt(key, ({"role": "user", "content": text},), ()) for key, text in named]


def responses(folder: Path, *rows: dict) -> Path:
    path = folder / "responses.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


TWO = prompts(("7", "Write."), ("b", "Sing."))


def test_by_key_of_either_type_or_by_prompt(tmp_path: Path):
    file = responses(
        tmp_path, {"prompt": " Sing.\n", "response": "la"}, {"key": 7, "response": None}
    )
    matched = match_responses(TWO, file)
    assert [p.id for p in matched.prompts] == ["7", "b"]
    assert matched.responses == [None, "la"]
    assert matched.missing == matched.unknown == []


def test_missing_and_unknown_are_named(tmp_path: Path):
    file = responses(
        tmp_path,
        {"key": "b", "prompt": "Sing.", "response": "la"},
        {"key": 8, "response": "?"},
        {"prompt": "Else.", "response": "?"},
    )
    matched = match_responses(TWO, file)
    assert [p.id for p in matched.prompts] == ["b"]
    assert matched.missing == ["7"]
    assert matched.unknown == [f"{file}:2", f"{file}:3"]


def test_equal_prompts_share_a_response_given_by_text(tmp_path: Path):
    file = responses(tmp_path, {"prompt": "Write.", "response": "x"})
    matched = match_responses(prompts(("1", "Write."), ("2", "Write.")), file)
    assert matched.responses == ["x", "x"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"key": 7}, "no column `response`"),
        ({"key": 7, "respons": "x"}, "did you mean `respons`"),
        ({"key": 7, "response": ["x"]}, "`response` must be text or null, got list"),
        ({"response": "x"}, "neither `key` nor `prompt` says"),
        ({"key": 7.5, "response": "x"}, "`key` must be a string or a whole number"),
        ({"key": 7, "prompt": "Sing.", "response": "x"}, "`prompt` is not the prompt of key 7"),
    ],
)
def test_malformed_rows(tmp_path: Path, row: dict, message: str):
    file = responses(tmp_path, {"key": "b", "response": "la"}, row)
    with pytest.raises(InputError, match=message) as caught:
        match_responses(TWO, file)
    assert f"{file}:2: " in str(caught.value)


def test_two_different_responses_to_one_prompt(tmp_path: Path):
    same = responses(tmp_path, {"key": 7, "response": "x"}, {"key": "7", "response": "x"})
    assert match_responses(TWO, same).responses == ["x"]
    file = responses(tmp_path, {"key": 7, "response": "x"}, {"prompt": "Write.", "response": "y"})
    with pytest.raises(InputError, match=r":2: a second response to prompt 7, after .*:1"):
        match_responses(TWO, file)


def test_half_a_surrogate_pair_is_refused_where_it_is_read(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"key": 1, "response": "A sea \\ud83c"}\n')
    prompt = Prompt("1", ({"role": "user", "content": "Write"},), ())
    with pytest.raises(InputError, match=r"r.jsonl:1: `response` holds half a surrogate pair"):
        match_responses([prompt], path)
