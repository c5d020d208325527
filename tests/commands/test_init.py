"""`uniapl init`: what it writes is what `uniapl train` accepts, from where the user is."""

import json
from pathlib import Path

import pytest
import yaml
from tiny import save_tiny_model, write_task

from uniapl import cli
from uniapl.config import load_config


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def uniapl(*words: str) -> int:
    return cli.main(words)


def failure(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert uniapl(*words) == 2
    return capsys.readouterr().err


def test_without_options_it_is_the_packaged_miniature(
    here: Path, capsys: pytest.CaptureFixture[str]
):
    assert uniapl("init", "sub/my.yaml") == 0
    said = capsys.readouterr().out
    assert "uniapl train sub/my.yaml " in said
    assert "uniapl chat runs/my --compare" in said
    ours, packaged = load_config("sub/my.yaml"), load_config("miniature")
    changes = {"output_dir": "runs/my", "training": packaged.training}
    assert ours.model_copy(update=changes) == packaged.model_copy(update=changes)
    assert ours.training.steps == packaged.training.steps
    # the copy still works elsewhere: nothing in it points beside the file
    moved = here / "elsewhere.yaml"
    Path("sub/my.yaml").rename(moved)
    assert uniapl("train", str(moved), "--preview") == 0
    assert "preference prompt" in capsys.readouterr().out


def test_the_users_files_train_from_where_the_user_is(
    here: Path, capsys: pytest.CaptureFixture[str]
):
    save_tiny_model(here / "models" / "tiny model")
    write_task(here / "task")
    words = ["--model", "models/tiny model", "--demonstrations", "task/demonstrations.jsonl"]
    assert uniapl("init", "configs/own.yaml", *words, "--prompts", "task/prompts.jsonl") == 0
    text = Path("configs/own.yaml").read_text()
    assert text.count("#") > 15
    written = yaml.safe_load(text)
    assert written["model"]["path"] == "../models/tiny model"
    assert written["data"]["prompts"] == "../task/prompts.jsonl"
    assert written["method"] == "uniapl"
    capsys.readouterr()
    quick = ["training.steps=1", "rollout.max_completion_tokens=8", "rollout.group_size=2"]
    assert uniapl("train", "configs/own.yaml", *quick) == 0
    assert "12 prompts → runs/own" in capsys.readouterr().err
    assert (here / "runs/own/policy/model.safetensors").exists()


def test_demonstrations_alone_are_learned_by_sft(here: Path, capsys: pytest.CaptureFixture[str]):
    save_tiny_model(here / "model")
    write_task(here / "task", num=3)
    own = ["--model", "model", "--demonstrations", "task/demonstrations.jsonl"]
    assert uniapl("init", "own.yaml", *own) == 0
    assert "note: without --prompts there is nothing to reward" in capsys.readouterr().out
    assert uniapl("train", "own.yaml", "training.steps=1") == 0


def test_prompts_without_instructions_are_not_rewarded_by_them(
    here: Path, capsys: pytest.CaptureFixture[str]
):
    write_task(here / "task", num=3)
    (here / "bare.jsonl").write_text(json.dumps({"prompt": "Name a sea."}) + "\n")
    own = ["--demonstrations", "task/demonstrations.jsonl", "--prompts", "bare.jsonl"]
    assert uniapl("init", "own.yaml", *own) == 0
    assert "no prompt of bare.jsonl has an `instruction_id_list`" in capsys.readouterr().out
    assert load_config("own.yaml").method == "sft"


def test_a_hub_id_stays_as_it_is(here: Path):
    own = [
        "--model",
        "some/model",
        "--demonstrations",
        "owner/name:train",
        "--prompts",
        "owner/other",
    ]
    assert uniapl("init", "own.yaml", *own) == 0
    config = load_config("own.yaml")
    assert config.model.path == "some/model"
    assert config.data.demonstrations == "owner/name:train"


def test_nothing_is_replaced(here: Path, capsys: pytest.CaptureFixture[str]):
    Path("my.yaml").write_text("mine")
    assert "error: my.yaml: is there already" in failure(capsys, "init", "my.yaml")
    assert Path("my.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--demonstrations", "no.jsonl"], "--demonstrations: no such file: no.jsonl"),
        (["--prompts", "p.jsonl"], "--prompts needs --demonstrations"),
        (["--model", "./no"], "--model: no such folder: ./no"),
        (["--demonstrations", "bare.jsonl"], "bare.jsonl has rows without an expert's completion"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    (here / "bare.jsonl").write_text(json.dumps({"prompt": "Name a sea."}) + "\n")
    error = failure(capsys, "init", "my.yaml", *words)
    assert message in error
    assert error.count("\n") == 1
    assert not Path("my.yaml").exists()


def test_what_it_prints_can_be_pasted(here: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["init", "my own.yaml"]) == 0
    assert "uniapl train 'my own.yaml' --preview" in capsys.readouterr().out
