"""Checkpoints: everything that moves, written aside, synced, renamed; and how a run goes on from one.

A checkpoint folder `step_000050` exists only complete: it gets its name after all of it is on disk.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from uniapl.types import InputError

_NAME = re.compile(r"^step_(\d{6,})$")
STATE, POLICY, COMPLETE, BEST = "state.pt", "policy", "COMPLETE", "best.json"

State = dict[str, Any]


def step_name(step: int) -> str:
    """Return the folder name of a step."""
    return f"step_{step:06d}"


def checkpoint_steps(folder: Path) -> list[int]:
    """Return the steps of the complete checkpoints, ascending."""
    if not folder.is_dir():
        return []
    steps = [int(m.group(1)) for p in folder.iterdir() if (m := _NAME.match(p.name))]
    return sorted(s for s in steps if (folder / step_name(s) / COMPLETE).exists())


def save_checkpoint(
    folder: Path, step: int, save_policy: Callable[[Path], None], state: State, keep: int
) -> Path:
    """Write `step_<step>`, say which is the best, and drop what is no longer kept.

    Args:
        folder: The run's `checkpoints`.
        step: Updates done.
        save_policy: Writes an ordinary model folder to a path.
        state: Tensors, numbers, lists and dictionaries: the rest of what moves; its `best` (`step`,
            `metric`, `value`, or None) names the best checkpoint, this one included.
        keep: How many of the newest stay; the best one always does.

    Raises:
        OSError: The disk is full; the earlier checkpoints are untouched.
    """
    target = folder / step_name(step)
    aside = folder / f".{step_name(step)}.writing"
    folder.mkdir(parents=True, exist_ok=True)
    for rest in folder.glob(".step_*.writing"):
        shutil.rmtree(rest)
    aside.mkdir()
    save_policy(aside / POLICY)
    torch.save(state, aside / STATE)
    (aside / COMPLETE).write_text("")
    for path in sorted(aside.rglob("*")):
        _sync(path)
    _sync(aside)
    if target.exists():
        shutil.rmtree(target)
    os.replace(aside, target)
    _sync(folder)
    best = state["best"]
    write_best(folder, best)
    for old in checkpoint_steps(folder)[:-keep]:
        if old != step and (best is None or old != best["step"]):
            shutil.rmtree(folder / step_name(old))
    return target


def load_state(checkpoint: Path) -> State:
    """Read the state of a complete checkpoint.

    Raises:
        InputError: It is not one.
    """
    if not (checkpoint / COMPLETE).exists():
        raise InputError(f"training.resume: {checkpoint} is not a complete checkpoint")
    return torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)


def write_best(folder: Path, best: dict[str, Any] | None) -> None:
    """Write which checkpoint is the best, or that none is yet."""
    if best is not None:
        replace_file(folder / BEST, json.dumps(best) + "\n")
    else:
        (folder / BEST).unlink(missing_ok=True)


def drop_after(folder: Path, step: int) -> None:
    """Remove checkpoints of later steps: the run goes on from `step` and will make them anew."""
    for later in checkpoint_steps(folder):
        if later > step:
            shutil.rmtree(folder / step_name(later))


def replace_file(path: Path, text: str) -> None:
    """Write a file aside, sync and rename it: readers see the old or the new one, never a part."""
    aside = path.with_name(f".{path.name}.writing")
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(aside, path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
