"""Checkpoints: everything that moves, written aside, synced, renamed; and how a run goes on from one.

A checkpoint folder `step_000050` exists only complete: it gets its name after all of it is on disk.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from uniapl.errors import InputError, TrainingError
from uniapl.files import write_text
from uniapl.models.loading import refusing
from uniapl.models.saving import write_model_folder

_NAME = re.compile(r"^step_(\d{6,})$")
STATE, POLICY, COMPLETE, BEST = "state.pt", "policy", "COMPLETE", "best.json"
ADAPTER, DISCRIMINATOR = "adapter", "discriminator"
SHARDS, PENDING_SHARDS = "shards", ".shards.writing"
"""Weights and optimisers where they are shared out: in a checkpoint, and beside it while the ranks write them."""

STATE_VERSION = 2
"""Grows when what a state holds changes its meaning: a run goes on only from states of its own version. The first
version wrote no number."""

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
        TrainingError: It could not be written, the disk being full for example; the earlier checkpoints
            are untouched.
    """
    target = folder / step_name(step)

    def write(aside: Path) -> None:
        save_policy(aside / POLICY)
        # a stream of our own: of a path, torch hides the reason for which it cannot be written
        with (aside / STATE).open("wb") as stream:
            torch.save({"version": STATE_VERSION, **state}, stream)
        (aside / COMPLETE).write_text("")

    write_model_folder(target, write)
    best = state["best"]
    write_best(folder, best)
    for old in checkpoint_steps(folder)[:-keep]:
        if old != step and (best is None or old != best["step"]):
            remove_checkpoint(folder / step_name(old))
    return target


def load_state(checkpoint: Path) -> State:
    """Read the state of a complete checkpoint.

    Raises:
        InputError: It is not one, or a version of uniapl wrote it that kept something else.
    """
    if not (checkpoint / COMPLETE).exists():
        raise InputError(f"training.resume: {checkpoint} is not a complete checkpoint")
    # weights_only: a checkpoint from elsewhere must not run code
    with refusing("training.resume: cannot load", str(checkpoint)):
        try:
            state = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # of bytes that are no checkpoint, whatever torch stumbles over
            raise ValueError(
                f"{STATE} is damaged or incomplete; remove this checkpoint, and the run goes on from an older one"
            ) from error
    version = state.get("version", 1)
    if version != STATE_VERSION:
        raise InputError(
            f"training.resume: {checkpoint} holds state of version {version}, and this uniapl reads version "
            f"{STATE_VERSION}; go on with the uniapl that wrote it, or start in another output_dir"
        )
    return state


def drop_optimizers(folder: Path) -> None:
    """Leave the optimisers' numbers out of all checkpoints of a finished run; weights and streams stay.

    Raises:
        TrainingError: A checkpoint could not be written; it is unchanged.
    """
    for step in checkpoint_steps(folder):
        path = folder / step_name(step) / STATE
        state = load_state(path.parent)
        state["optimizer"] = None
        if state["discriminator"] and "optimizer" in state["discriminator"]:
            state["discriminator"]["optimizer"] = None
        aside = path.with_name(f".{STATE}.writing")
        try:
            with aside.open("wb") as stream:
                torch.save(state, stream)
            aside.replace(path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise TrainingError(f"{path} could not be written: {error.strerror}") from error


def write_best(folder: Path, best: dict[str, Any] | None) -> None:
    """Write which checkpoint is the best, or that none is yet."""
    if best is not None:
        write_text(folder / BEST, json.dumps(best) + "\n")
    else:
        (folder / BEST).unlink(missing_ok=True)


def drop_after(folder: Path, step: int) -> None:
    """Remove checkpoints of later steps: the run goes on from `step` and will make them anew."""
    for later in checkpoint_steps(folder):
        if later > step:
            remove_checkpoint(folder / step_name(later))


def remove_checkpoint(path: Path) -> None:
    """Remove a folder so that one killed half-way does not leave what looks complete."""
    (path / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(path)
