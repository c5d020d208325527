"""What a run that goes on takes for granted: its data, its base weights, its schedules. It checks them, or says so."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import Tiny, rows

from uniapl.config import load_config
from uniapl.errors import InputError
from uniapl.runs import train

WORDS = ("method=mix", "evaluation.prompts=null", "training.checkpoint_every=0")


@pytest.fixture
def own(tiny: Tiny, tmp_path: Path) -> Tiny:
    """A copy of model and data that a test may change."""
    shutil.copytree(tiny.model, tmp_path / "model")
    for name in ("demonstrations", "prompts"):
        shutil.copy(tiny.task[name], tmp_path / f"{name}.jsonl")
    config = tmp_path / "own.yaml"
    text = tiny.config.read_text().replace(str(tiny.model), str(tmp_path / "model"))
    for name in ("demonstrations", "prompts"):
        text = text.replace(tiny.task[name], str(tmp_path / f"{name}.jsonl"))
    config.write_text(text)
    return Tiny(tmp_path / "model", tiny.task, config)


def go_on(own: Tiny, run_folder: Path, *words: str) -> str:
    """Train one step, or one more; return why that was refused."""
    more = (*WORDS, "training.steps=2", "training.resume=auto", *words)
    with pytest.raises(InputError) as caught:
        train(load_config(own.config, [f"output_dir={run_folder}", *more]))
    assert len(rows(run_folder)) == 1
    return str(caught.value)


@pytest.mark.parametrize("name", ["demonstrations", "prompts"])
@pytest.mark.parametrize("change", ["order", "text", "column"])
def test_other_data_are_refused(own: Tiny, run_folder: Path, name: str, change: str):
    own.train(run_folder, *WORDS, "training.steps=1")
    file = own.config.parent / f"{name}.jsonl"
    data = [json.loads(line) for line in file.read_text().splitlines()]
    if change == "order":
        random.Random(0).shuffle(data)
    elif change == "text":
        data[0]["prompt"] = "d99 Write"
    else:
        data[0]["kwargs"][1]["num_words"] = 9
    file.write_text("".join(json.dumps(row) + "\n" for row in data))
    assert f"cannot resume: the {name} are not those that the checkpoint knows" in go_on(
        own, run_folder
    )


def test_the_same_data_elsewhere_with_keys_in_another_order_go_on(own: Tiny, run_folder: Path):
    own.train(run_folder, *WORDS, "training.steps=1")
    file = own.config.parent / "prompts.jsonl"
    data = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(dict(reversed(row.items()))) + "\n" for row in data))
    own.train(run_folder, *WORDS, "training.steps=2", "training.resume=auto")
    assert len(rows(run_folder)) == 2


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_other_base_weights_are_refused(own: Tiny, run_folder: Path, tuning: str):
    """Under an adapter they are the policy; to a full policy, the reference and the model before training."""
    own.train(run_folder, *WORDS, f"model.tuning={tuning}", "training.steps=1")
    file = own.model / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "down_proj" in name)
    weights[name] = (weights[name] * 1.001).contiguous()
    save_file(weights, file, metadata={"format": "pt"})
    message = go_on(own, run_folder, f"model.tuning={tuning}")
    assert f"model.path {own.model} holds other weights than when the run began" in message


def test_the_same_weights_go_on_with_other_threads(own: Tiny, run_folder: Path):
    lora = (*WORDS, "model.tuning=lora")
    own.train(run_folder, *lora, "training.steps=1")
    torch.set_num_threads(2)
    own.train(run_folder, *lora, "training.steps=2", "training.resume=auto")
    torch.set_num_threads(1)
    assert len(rows(run_folder)) == 2


def test_more_steps_say_which_schedules_they_stretch(own: Tiny, run_folder: Path, capsys):
    words = (
        *WORDS,
        "optimizer.schedule=linear",
        "objective.sft_weight=[[0, 1.0], [1, 0.0]]",
        "objective.grpo_weight=1",
    )
    own.train(run_folder, *words, "training.steps=3")
    capsys.readouterr()
    own.train(run_folder, *words, "training.steps=6", "training.resume=auto")
    warned = [line for line in capsys.readouterr().err.splitlines() if " WARNING training" in line]
    before = "training.steps was 3, is 6: this stretches the schedule of"
    assert [line.partition(" WARNING ")[2] for line in warned] == [
        f"{before} optimizer.learning_rate, which goes on at 0.00046 where it had come to 0.0001",
        f"{before} objective.sft_weight, which goes on at 0.5 where it had come to 0",
    ]
    row = rows(run_folder)[3]
    assert row["objective/sft_weight"] == 0.5
    assert row["optimizer/learning_rate"] == pytest.approx(4.6e-4)


@pytest.mark.parametrize("words", [(), ("optimizer.schedule=linear", "optimizer.warmup_steps=9")])
def test_more_steps_of_a_constant_schedule_are_no_news(
    own: Tiny, run_folder: Path, capsys, words: tuple[str, ...]
):
    own.train(run_folder, *WORDS, *words, "training.steps=1")
    own.train(run_folder, *WORDS, *words, "training.steps=2", "training.resume=auto")
    assert "stretches" not in capsys.readouterr().err
