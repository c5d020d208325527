"""`--columns`: the commands that read data take it under the user's names, as `data.columns` of a config."""

import json
from pathlib import Path

import pytest
from tiny import save_tiny_model, save_tiny_reward_model

from uniapl import cli

COLUMNS = "{prompt: task, response: said, key: number}"


def write(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


CHECKED = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
PROMPTS = [
    {"number": 1, "task": "Name a sea.", **CHECKED},
    {"number": 2, "task": "Name two.", **CHECKED},
]


def test_evaluate_reads_prompts_and_responses(here: Path, capsys: pytest.CaptureFixture[str]):
    prompts = write(here / "p.jsonl", *PROMPTS)
    responses = write(
        here / "r.jsonl", {"number": 1, "said": "The Baltic."}, {"number": 2, "said": "One, two."}
    )
    words = ["evaluate", "--benchmark", "custom", "--prompts", prompts, "--responses", responses]
    assert cli.main([*words, "--columns", COLUMNS]) == 0
    results = json.loads((here / "evaluations/custom/results.json").read_text())
    assert (results["n"], results["prompt_level_strict_acc"]) == (2, 0.5)
    assert results["settings"]["columns"] == {"prompt": "task", "response": "said", "key": "number"}
    capsys.readouterr()
    assert cli.main(words) == 2
    assert "p.jsonl:1: no column `messages`" in capsys.readouterr().err


def test_a_model_answers_and_ranks_them(here: Path):
    save_tiny_model(here / "model")
    save_tiny_reward_model(here / "judge")
    prompts = write(here / "p.jsonl", *PROMPTS)
    words = ["evaluate", "model", "--benchmark", "custom", "--prompts", prompts]
    assert cli.main([*words, "--max-tokens", "4", "--columns", "{prompt: task, key: number}"]) == 0
    rows = (here / "evaluations/custom/samples.jsonl").read_text().splitlines()
    assert [json.loads(row)["prompt"] for row in rows] == ["Name a sea.", "Name two."]
    pairs = write(here / "pairs.jsonl", {"task": "Name a sea.", "good": "Baltic.", "bad": "No."})
    columns = "{prompt: task, chosen: good, rejected: bad}"
    assert cli.main(["evaluate", "judge", "--pairs", pairs, "--columns", columns]) == 0
    (row,) = (here / "evaluations/pairs/samples.jsonl").read_text().splitlines()
    assert json.loads(row)["chosen"] == "Baltic."


def test_collect_asks_them(here: Path):
    save_tiny_model(here / "model")
    prompts = write(here / "p.jsonl", {"number": 1, "task": "Name a sea."})
    words = ["collect", prompts, "--output", "o.jsonl", "--local", "model", "--max-tokens", "4"]
    # an answer of four random tokens may be cut off; what was asked is what counts
    cli.main([*words, "--columns", "{prompt: task, key: number}"])
    summary = json.loads((here / "o.summary.json").read_text())
    assert summary["num_prompts"] == 1
    assert summary["settings"]["columns"] == {"prompt": "task", "key": "number"}


def test_prompts_makes_prompts_of_them(here: Path):
    seeds = write(here / "s.jsonl", {"task": "Why do birds sing?", "prompt": "not this"})
    assert cli.main(["prompts", seeds, "--output", "o.jsonl", "--columns", "{prompt: task}"]) == 0
    (row,) = (here / "o.jsonl").read_text().splitlines()
    assert "Why do birds sing?" in json.loads(row)["prompt"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("prompt", "--columns must be a mapping such as '{prompt: task, completion: reply}', got"),
        ("{}", "--columns must be a mapping such as"),
        ("{prompt: 7}", "--columns: prompt must be the name of a column"),
        ("{prompt: task", "--columns: line 1"),
        ("{promt: task}", "--columns: unknown name promt; did you mean prompt?"),
        ("{prompt: tusk}", "no column `tusk`, which `columns` names for `prompt`; the nearest is"),
    ],
)
def test_a_wrong_mapping_is_one_line(
    columns: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]
):
    seeds = write(here / "s.jsonl", {"task": "Why?"})
    assert cli.main(["prompts", seeds, "--output", "o.jsonl", "--columns", columns]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert len(message.splitlines()) == 1
