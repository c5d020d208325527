"""Checkpoints are whole or not there, and the right ones stay."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from uniapl.errors import InputError, TrainingError
from uniapl.files import remove_leftovers, write_text
from uniapl.models.saving import write_model_folder
from uniapl.runs import checkpoint
from uniapl.runs.checkpoint import (
    STATE_VERSION,
    checkpoint_steps,
    drop_after,
    load_state,
    save_checkpoint,
    step_name,
)


def save_policy(path: Path) -> None:
    path.mkdir()
    (path / "weights").write_text("w")


def save(folder: Path, step: int, best: int | None = None, keep: int = 2, **state: Any) -> Path:
    named = {"step": best, "metric": "accuracy", "value": 0.5} if best is not None else None
    return save_checkpoint(folder, step, save_policy, {"step": step, "best": named, **state}, keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back(tmp_path: Path):
    state = {"tensor": torch.tensor([1.5]), "rows": [(1, [2])], "nothing": None}
    path = save(tmp_path / "checkpoints", 7, **state)
    assert path.name == "step_000007"
    assert (path / "policy" / "weights").read_text() == "w"
    loaded = load_state(path)
    assert torch.equal(loaded.pop("tensor"), state.pop("tensor"))
    assert loaded == {"version": STATE_VERSION, "step": 7, "best": None, **state}


@pytest.mark.parametrize("version", [None, 1, 3])
def test_state_of_another_version_is_refused_in_one_line(tmp_path: Path, version: int | None):
    """The first version wrote no number."""
    path = save(tmp_path, 2)
    state = torch.load(path / "state.pt", weights_only=True)
    del state["version"]
    torch.save(state if version is None else {**state, "version": version}, path / "state.pt")
    with pytest.raises(InputError) as raised:
        load_state(path)
    assert str(raised.value) == (
        f"training.resume: {path} holds state of version {version or 1}, and this uniapl reads version 2; "
        "go on with the uniapl that wrote it, or start in another output_dir"
    )


def test_the_newest_and_the_best_stay(tmp_path: Path):
    for step in (2, 4, 6, 8):
        save(tmp_path, step, best=2)
    assert checkpoint_steps(tmp_path) == [2, 6, 8]
    assert json.loads((tmp_path / "best.json").read_text())["step"] == 2
    save(tmp_path, 10, best=10, keep=1)
    assert names(tmp_path) == ["best.json", "step_000010"]


def test_without_a_best_one_none_is_named(tmp_path: Path):
    save(tmp_path, 2, best=2)
    save(tmp_path, 4)
    assert names(tmp_path) == ["step_000002", "step_000004"]


def test_a_folder_that_is_not_complete_is_none(tmp_path: Path):
    save(tmp_path, 2)
    (save(tmp_path, 4) / "COMPLETE").unlink()
    (tmp_path / ".step_000006.writing").mkdir()
    (tmp_path / ".step_000006.writing" / "COMPLETE").write_text("")
    (tmp_path / "step_last").mkdir()
    assert checkpoint_steps(tmp_path) == [2]
    assert checkpoint_steps(tmp_path / "nowhere") == []
    with pytest.raises(InputError, match="step_000004 is not a complete checkpoint"):
        load_state(tmp_path / "step_000004")
    save(tmp_path, 4)
    assert checkpoint_steps(tmp_path) == [2, 4]


def test_steps_are_ordered_as_numbers(tmp_path: Path):
    for step in (999_998, 1_000_000, 999_999):
        save(tmp_path, step, keep=5)
    assert checkpoint_steps(tmp_path) == [999_998, 999_999, 1_000_000]
    assert step_name(3) == "step_000003"


def test_later_ones_are_dropped(tmp_path: Path):
    for step in (2, 4, 6):
        save(tmp_path, step, keep=5)
    drop_after(tmp_path, 3)
    assert checkpoint_steps(tmp_path) == [2]


def test_a_removal_that_is_cut_short_leaves_no_complete_one(tmp_path, monkeypatch):
    for step in (2, 4):
        save(tmp_path, step)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        drop_after(tmp_path, 2)
    assert (tmp_path / "step_000004" / "state.pt").exists()
    assert checkpoint_steps(tmp_path) == [2]


def full_disk_fsync(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_torch(state: Any, stream: Any) -> None:
    """As torch does it: the system's reason is only the context of its own error."""
    stream.write(b"half")
    try:
        full_disk_fsync(0)
    except OSError:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos") from None


def full_disk_safetensors(_: Path) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device")


@pytest.mark.parametrize("failing", ["fsync", "torch", "safetensors"])
def test_a_full_disk_leaves_the_earlier_ones(tmp_path: Path, monkeypatch, failing: str):
    save(tmp_path, 2, best=2)
    before = names(tmp_path)
    saves_policy = save_policy
    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", full_disk_fsync)
    elif failing == "torch":
        monkeypatch.setattr(torch, "save", full_disk_torch)
    else:
        saves_policy = full_disk_safetensors
    with pytest.raises(TrainingError) as raised:
        save_checkpoint(tmp_path, 4, saves_policy, {"step": 4, "best": None}, 1)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"cannot write {tmp_path / 'step_000004'}: ")
    assert str(raised.value).endswith("No space left on device")
    assert names(tmp_path) == before
    assert load_state(tmp_path / "step_000002")["step"] == 2


def test_torchs_own_full_disk_is_recognised(tmp_path: Path):
    """On a device that is always full, through torch's real writer."""

    def write(_: Path) -> None:
        with Path("/dev/full").open("wb") as stream:
            torch.save({"a": torch.zeros(300_000)}, stream)

    with pytest.raises(TrainingError, match=r"No space left on device$"):
        write_model_folder(tmp_path / "target", write)
    assert names(tmp_path) == []


def test_an_interrupt_while_writing_leaves_nothing(tmp_path: Path):
    def interrupted(aside: Path) -> None:
        save_policy(aside / "policy")
        raise KeyboardInterrupt

    (tmp_path / "target").mkdir()
    with pytest.raises(KeyboardInterrupt):
        write_model_folder(tmp_path / "target", interrupted)
    assert names(tmp_path) == ["target"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path):
    (tmp_path / "checkpoints" / ".step_000004.writing" / "policy").mkdir(parents=True)
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / ".step_000004.jsonl.writing").write_text("{")
    (tmp_path / ".policy.writing").mkdir()
    (tmp_path / "keep.writing").write_text("")
    for folder in (tmp_path, tmp_path / "checkpoints", tmp_path / "rollouts"):
        remove_leftovers(folder)
    assert sorted(p.name for p in tmp_path.rglob("*writing")) == ["keep.writing"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch):
    file = tmp_path / "config.yaml"
    write_text(file, "old")
    write_text(file, "new λ")
    assert file.read_text(encoding="utf-8") == "new λ"
    monkeypatch.setattr(os, "fsync", full_disk_fsync)
    with pytest.raises(OSError, match="No space left"):
        write_text(file, "newest")
    assert names(tmp_path) == ["config.yaml"]
    assert file.read_text(encoding="utf-8") == "new λ"
