"""Who may write into a run folder, and what it says of its run."""

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Tiny

from uniapl import __version__
from uniapl.config import load_config
from uniapl.config.recipe import Recipe
from uniapl.config.schema import Config
from uniapl.errors import InputError
from uniapl.runs.run_folder import MAY_CHANGE, RunFolder, open_run_folder


def resolve(config: Config) -> Config:
    return Recipe.of(config).config


def start(tiny: Tiny, folder: Path, *words: str) -> Path:
    """Begin a run, without models."""
    config = resolve(tiny.load(folder, *words))
    opened = open_run_folder(config)
    opened.start(config, {"reward/mean": "Mean."}, "cpu")
    opened.close()
    return folder


def test_a_run_says_what_it_is(tiny: Tiny, run_folder: Path):
    start(tiny, run_folder, "method=gad", "seed=3")
    config = load_config(run_folder / "config.yaml")
    assert config == resolve(tiny.load(run_folder, "method=gad", "seed=3"))
    assert config.objective.adversarial_weight == 1  # as the method decides
    assert json.loads((run_folder / "definitions.json").read_text()) == {
        "method": "adversarial distillation (GAD)",
        "reward/mean": "Mean.",
    }
    environment = json.loads((run_folder / "environment.json").read_text())
    assert environment.keys() == {
        *("format", "created", "git_commit", "versions", "platform", "device", "threads"),
        *("command", "run_id", "resumed"),
    }
    assert environment["resumed"] == []
    assert environment["format"] == 1
    assert environment["versions"]["uniapl"] == __version__


def go_on(tiny: Tiny, folder: Path, run: Path, step: int) -> dict[str, Any]:
    """Begin `folder` from a checkpoint of `run`, without models; return its environment."""
    folder.mkdir(exist_ok=True)
    checkpoint = run / "checkpoints" / f"step_{step:06d}"
    opened = RunFolder(
        folder, checkpoint, {"step": step, "best": None}, (folder / ".lock").open("w")
    )
    opened.start(resolve(tiny.load(folder)), {}, "cpu")
    opened.close()
    return json.loads((folder / "environment.json").read_text())


def test_every_start_is_remembered(tiny: Tiny, run_folder: Path, tmp_path: Path):
    start(tiny, run_folder)
    first = json.loads((run_folder / "environment.json").read_text())
    for step in (20, 40, 30):  # the third goes back: what the second did is undone
        found = go_on(tiny, run_folder, run_folder, step)
    assert [entry["step"] for entry in found["resumed"]] == [20, 30]
    assert found["resumed"][1].keys() == first.keys() - {"format", "run_id", "resumed"} | {"step"}
    assert {key: found[key] for key in first if key != "resumed"} == {
        key: first[key] for key in first if key != "resumed"
    }
    fork = go_on(tiny, tmp_path / "fork", run_folder, 30)
    assert [entry["step"] for entry in fork["resumed"]] == [20, 30, 30]
    assert fork["created"] == first["created"]
    assert fork["run_id"] != first["run_id"]  # another run to a tracker
    afresh = start(tiny, run_folder, "training.resume=auto")
    environment = json.loads((afresh / "environment.json").read_text())
    assert environment["resumed"] == []
    assert environment["run_id"] != first["run_id"]


def test_a_second_run_is_refused(tiny: Tiny, run_folder: Path):
    start(tiny, run_folder)
    before = (run_folder / "config.yaml").read_bytes()
    with pytest.raises(InputError, match=r"holds a run already; .* training\.resume=auto$"):
        start(tiny, run_folder, "seed=1")
    assert (run_folder / "config.yaml").read_bytes() == before


def test_other_settings_are_refused_by_name(tiny: Tiny, run_folder: Path):
    start(tiny, run_folder)
    words = ["seed=1", "rollout.group_size=8", "rewards.0.weight=2", "training.resume=auto"]
    with pytest.raises(InputError) as raised:
        start(tiny, run_folder, *words)
    message = str(raised.value)
    assert message.startswith(f"output_dir: {run_folder} holds a run with other settings: ")
    assert "; rollout.group_size was 4, is 8; seed was 0, is 1" in message
    assert "rewards was " in message
    assert "training" not in message.partition("settings: ")[2]


def test_settings_that_change_nothing_learned_may_differ(tiny: Tiny, run_folder: Path):
    start(tiny, run_folder)
    words = [
        *("training.steps=8", "training.checkpoint_every=4", "training.keep_checkpoints=1"),
        *("training.evaluate_every=4", "training.rollouts_logged_per_step=0"),
        *("training.gradients_every=2", "training.trackers=[tensorboard]"),
        *("training.micro_batch_tokens=64", "rollout.max_rows=4"),
        *("training.device=cpu", "training.threads=2", "training.keep_optimizer=false"),
    ]
    named = {word.partition("=")[0] for word in words} | {"output_dir", "training.resume"}
    of_servers = {"rollout.servers", "rollout.timeout_seconds"}  # without one they have no effect
    assert named | of_servers == MAY_CHANGE  # one more key needs a reason, and a place here
    start(tiny, run_folder, *words, "training.resume=auto")
    assert load_config(run_folder / "config.yaml").training.steps == 8


def test_auto_starts_afresh_where_there_is_nothing(tiny: Tiny, run_folder: Path):
    config = resolve(tiny.load(run_folder, "training.resume=auto"))
    opened = open_run_folder(config)
    assert opened.checkpoint is None
    assert opened.step == 0
    opened.close()


def test_auto_starts_afresh_without_a_complete_checkpoint(tiny: Tiny, run_folder: Path):
    start(tiny, run_folder)
    (run_folder / "checkpoints" / "step_000002").mkdir(parents=True)
    for name in ("rollouts/step_000001.jsonl", "evaluations/step_000000/samples.jsonl"):
        (run_folder / name).parent.mkdir(parents=True)
        (run_folder / name).write_text("")
    (run_folder / "rollouts" / "step_notes.txt").write_text("mine")
    start(tiny, run_folder, "training.resume=auto")
    left = {p.name for p in run_folder.rglob("step_*")}
    assert left == {"step_000002", "step_notes.txt"}


def test_foreign_files_are_never_mixed_with_a_run(tiny: Tiny, run_folder: Path):
    run_folder.mkdir()
    (run_folder / "thesis.tex").write_text("")
    for resume in ("never", "auto"):
        with pytest.raises(InputError, match="is not empty and holds no run"):
            start(tiny, run_folder, f"training.resume={resume}")
    assert [p.name for p in run_folder.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_folder(tiny: Tiny, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file"):
        start(tiny, tmp_path / "file")
    with pytest.raises(InputError, match=r"output_dir: cannot write into .*: Not a directory"):
        start(tiny, tmp_path / "file" / "run")


def test_what_a_killed_start_left_is_no_obstacle(tiny: Tiny, run_folder: Path):
    run_folder.mkdir()
    (run_folder / ".lock").write_text("")
    (run_folder / ".config.yaml.0a1b.writing").write_text("seed: ")
    start(tiny, run_folder)
    assert not (run_folder / ".config.yaml.0a1b.writing").exists()


def test_a_run_of_an_older_version_is_refused_in_one_line(tiny: Tiny, run_folder: Path):
    """Its config has keys that are gone; the line says what is the matter, not each of them."""
    start(tiny, run_folder)
    with (run_folder / "config.yaml").open("a") as config:
        config.write("nonsense: 1\n")
    checkpoint = run_folder / "checkpoints" / "step_000002"
    checkpoint.mkdir(parents=True)
    torch.save({"step": 2, "best": None, "replay": []}, checkpoint / "state.pt")
    (checkpoint / "COMPLETE").write_text("")
    for resume in ("auto", str(checkpoint)):
        with pytest.raises(InputError) as raised:
            start(tiny, run_folder, f"training.resume={resume}")
        assert "\n" not in str(raised.value)
        assert "step_000002 holds state of version 1, and this uniapl reads version 2" in str(
            raised.value
        )


def test_a_second_writer_is_refused(tiny: Tiny, run_folder: Path):
    start(tiny, run_folder)
    config = resolve(tiny.load(run_folder, "training.resume=auto"))
    first = open_run_folder(config)
    with pytest.raises(InputError, match="another process is writing"):
        open_run_folder(config)
    first.close()
    open_run_folder(config).close()


def test_a_run_that_never_started_leaves_nothing(tiny: Tiny, run_folder: Path):
    opened = open_run_folder(resolve(tiny.load(run_folder)))
    with (run_folder / ".lock").open() as held, pytest.raises(BlockingIOError):
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    opened.close()
    assert not run_folder.exists()


def test_home_is_understood(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    opened = open_run_folder(resolve(tiny.load(Path("~/runs/a"))))
    assert opened.path == tmp_path / "runs" / "a"
    opened.close()


def test_a_run_has_its_own_number_of_threads(tiny: Tiny, run_folder: Path):
    before = torch.get_num_threads()
    tiny.train(run_folder, "training.steps=2", "training.threads=2")
    assert json.loads((run_folder / "environment.json").read_text())["threads"] == 2
    assert torch.get_num_threads() == before
