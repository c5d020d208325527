"""The run folder: who may write into it, what a resumed run keeps of it, and where the run came from."""

import json
import math
import os
import shutil
import uuid
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from uniapl.config import dump_config, load_config, resolved
from uniapl.config.methods import METHODS
from uniapl.config.recipe import Recipe
from uniapl.config.schema import Config
from uniapl.distributed import Ranks
from uniapl.errors import InputError
from uniapl.files import remove_leftovers, write_text
from uniapl.machine import environment
from uniapl.runs.checkpoint import (
    checkpoint_steps,
    drop_after,
    load_state,
    step_name,
    write_best,
)

FORMAT = 1
"""Version of the run folder's layout."""
MAY_CHANGE = {
    "output_dir",
    "training.steps",
    "training.resume",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.keep_optimizer",
    "training.evaluate_every",
    "training.gradients_every",
    "training.trackers",
    "training.rollouts_logged_per_step",
    "training.micro_batch_tokens",
    "training.device",
    "training.threads",
    "rollout.max_rows",
    "rollout.servers",
    "rollout.timeout_seconds",
}
"""Keys in which a resumed run may differ: none of them changes what is learned, up to rounding.

More `training.steps` stretch what is stated in fractions of all steps: schedules of weights and rate.
"""
LOCK, METRICS, ENVIRONMENT = ".lock", "metrics.jsonl", "environment.json"


@dataclass(slots=True)
class RunFolder:
    """A folder that this process alone may write, or of whose run it is another rank."""

    path: Path
    checkpoint: Path | None
    """Where the run goes on from; None: it starts."""
    state: dict[str, Any] | None
    """That checkpoint's."""
    _lock: IO[str] | None
    """None on a rank that writes nothing."""
    changes: list[str] = field(default_factory=list)
    """What a run that goes on does otherwise than it would have done, one line each."""
    _run_id: str = ""

    @property
    def step(self) -> int:
        """Updates done before this process."""
        return self.state["step"] if self.state else 0

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def close(self) -> None:
        """Let other processes in; of a run that never started, nothing stays."""
        if self._lock is None:
            return
        if not (self.path / "config.yaml").exists():
            (self.path / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                self.path.rmdir()
        self._lock.close()

    def start(self, config: Config, definitions: dict[str, str], device: str) -> None:
        """Remove what the checkpoint does not know, and write what the run is."""
        evaluations = self.path / "evaluations"
        for name in ("", "checkpoints", "rollouts", "evaluations"):
            remove_leftovers(self.path / name)
        for folder in evaluations.glob("*"):
            remove_leftovers(folder)
        for folder in ("rollouts", "evaluations"):
            for item in (self.path / folder).glob("step_*"):
                number = item.stem.removeprefix("step_")
                if number.isdigit() and not (self.state and int(number) <= self.step):
                    shutil.rmtree(item) if item.is_dir() else item.unlink()
        drop_after(self.checkpoints, self.step)
        self._copy_metrics()
        if self.checkpoints.is_dir():
            write_best(self.checkpoints, self.state["best"] if self.state else None)
        write_text(self.path / "config.yaml", dump_config(resolved(config)))
        method = {"method": METHODS[config.method].title}
        write_text(self.path / "definitions.json", _json(method | definitions))
        write_text(self.path / ENVIRONMENT, _json(self._environment(device)))

    def define(self, definitions: dict[str, str]) -> None:
        """Add the meanings of metrics that nobody could know before the run."""
        known = _read_json(self.path / "definitions.json")
        if definitions.keys() - known.keys():
            write_text(self.path / "definitions.json", _json({**known, **definitions}))

    @property
    def run_id(self) -> str:
        """A name for the run that no other has; it keeps it when it goes on in this folder."""
        if not self._run_id:
            known = _read_json(self.path / ENVIRONMENT) if self.state else {}
            self._run_id = known.get("run_id") or uuid.uuid4().hex[:12]
        return self._run_id

    def _environment(self, device: str) -> dict[str, Any]:
        """Return where the run was started and, of a run that goes on, where each time since."""
        here = environment(device)
        if self.checkpoint is None:
            return {"format": FORMAT, "run_id": self.run_id, **here, "resumed": []}
        # that of the folder, or of the run whose checkpoint it is
        first = _read_json(self.checkpoint.parent.parent / ENVIRONMENT)
        earlier = [r for r in first.get("resumed", []) if r["step"] <= self.step]
        resumed = [*earlier, {"step": self.step, **here}]
        return {"format": FORMAT, **first, "run_id": self.run_id, "resumed": resumed}

    def _copy_metrics(self) -> None:
        """Take over the rows of the run whose checkpoint this one goes on from."""
        if self.checkpoint is None:
            return
        theirs, ours = self.checkpoint.parent.parent / METRICS, self.path / METRICS
        if theirs.resolve() != ours.resolve() and theirs.exists():
            write_text(ours, theirs.read_text(encoding="utf-8"))


def open_run_folder(config: Config) -> RunFolder:
    """Claim `output_dir` and find where the run goes on from.

    Raises:
        InputError: The folder holds another run, another process writes it, or the checkpoint asked for
            is not one.
    """
    path = Path(config.output_dir).expanduser()
    _check_free(path)
    lock = _lock(path)
    try:
        checkpoint = _checkpoint(path, config)
        # first of all: of a run of another version, even the config may not load
        state = load_state(checkpoint) if checkpoint else None
        _check_same_run(path, config)
        if state and state["step"] > config.training.steps:
            raise InputError(
                f"training.steps {config.training.steps}: {checkpoint} has done {state['step']} already"
            )
        changes = _stretched(checkpoint, config, state["step"]) if checkpoint and state else []
    except BaseException:
        RunFolder(path, None, None, lock).close()
        raise
    return RunFolder(path, checkpoint, state, lock, changes)


def join_run_folder(config: Config, ranks: Ranks) -> RunFolder:
    """Let the first rank claim the folder; every rank reads where the run goes on from.

    Raises:
        InputError: As `open_run_folder`, or a rank does not see the checkpoint that the first one has found.
    """
    claimed: list[RunFolder] = []

    def claim() -> tuple[Path, Path | None]:
        claimed.append(open_run_folder(config))
        return claimed[0].path, claimed[0].checkpoint

    path, checkpoint = ranks.on_first(claim, "opening the run folder")
    try:
        states: list[dict[str, Any] | None] = []

        def read() -> None:
            states.append(load_state(checkpoint) if checkpoint and not claimed else None)

        ranks.share(read, "reading the checkpoint")
    except BaseException:
        for folder in claimed:
            folder.close()
        raise
    return claimed[0] if claimed else RunFolder(path, checkpoint, states[0], None)


def _check_free(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"output_dir: {path} is a file")
    if not path.is_dir() or (path / "config.yaml").exists():
        return
    # a process that was killed before its run started may have left these
    if any(p.name != LOCK and not p.match(".config.yaml.*.writing") for p in path.iterdir()):
        raise InputError(f"output_dir: {path} is not empty and holds no run")


def _lock(path: Path) -> IO[str]:
    try:
        import fcntl
    except ImportError:
        raise InputError(
            "output_dir: this system cannot lock a run folder (Python has no fcntl here); train on Linux or macOS, "
            "on Windows inside WSL"
        ) from None
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / LOCK).open("w")
    except OSError as error:
        raise InputError(f"output_dir: cannot write into {path}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_free = os.fstat(lock.fileno()).st_nlink > 0  # else its owner has just removed it
    except OSError:
        is_free = False
    if not is_free:
        lock.close()
        raise InputError(f"output_dir: another process is writing {path}")
    return lock


def _check_same_run(path: Path, config: Config) -> None:
    """Refuse to go on where the settings are not those of the run, and of the checkpoint's run."""
    holds_run = (path / "config.yaml").exists()
    resume = config.training.resume
    if resume == "never":
        if holds_run:
            raise InputError(
                f"output_dir: {path} holds a run already; choose another folder, or go on with "
                "training.resume=auto"
            )
        return
    if holds_run:
        _check_settings("output_dir", path, config)
    if resume != "auto":
        run = Path(resume).expanduser().absolute().parent.parent
        if not (run / "config.yaml").exists():
            raise InputError(
                f"training.resume: {resume} is not a checkpoint of a run: there is no "
                f"{run / 'config.yaml'}"
            )
        _check_settings("training.resume", run, config)


def _check_settings(key: str, run: Path, config: Config) -> None:
    saved = load_config(run / "config.yaml")
    # what the method derives from the number of steps is no setting
    training = saved.training.model_copy(update={"steps": config.training.steps})
    old = Recipe.of(saved.model_copy(update={"training": training})).config
    if changed := changed_settings(old, resolved(config), MAY_CHANGE):
        raise InputError(f"{key}: {run} holds a run with other settings: {'; '.join(changed)}")


def _stretched(checkpoint: Path, config: Config, step: int) -> list[str]:
    """Say which schedules go on elsewhere than they stood: they are fractions of `training.steps`."""
    old = Recipe.of(load_config(checkpoint.parent.parent / "config.yaml"))
    new = Recipe.of(config)
    before, now = old.config.training.steps, new.config.training.steps
    if before == now or step == now:
        return []
    values = {
        "optimizer.learning_rate": [recipe.learning_rates_at(step)[0] for recipe in (old, new)],
        "discriminator.learning_rate": [recipe.learning_rates_at(step)[1] for recipe in (old, new)],
    }
    if not new.has_discriminator:
        del values["discriminator.learning_rate"]
    for term in ("sft", "grpo", "adversarial", "kl"):
        key = "kl_coef" if term == "kl" else f"{term}_weight"
        values[f"objective.{key}"] = [
            getattr(recipe.weights_at(step), term) for recipe in (old, new)
        ]
    return [
        f"training.steps was {before}, is {now}: this stretches the schedule of {key}, which goes on at {b:.3g} "
        f"where it had come to {a:.3g}"
        for key, (a, b) in values.items()
        if not math.isclose(a, b)
    ]


def changed_settings(saved: Config, config: Config, may_change: Set[str]) -> list[str]:
    """Return `key was …, is …` for every other key in which two configs differ."""
    old, new = (flat(c.model_dump(mode="json")) for c in (saved, config))
    return [
        f"{name} was {old.get(name)!r}, is {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and name not in may_change
    ]


def _checkpoint(path: Path, config: Config) -> Path | None:
    resume = config.training.resume
    if resume == "never":
        return None
    if resume != "auto":
        return Path(resume).expanduser()
    steps = checkpoint_steps(path / "checkpoints")
    return path / "checkpoints" / step_name(steps[-1]) if steps else None


def flat(data: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by dotted key."""
    if not isinstance(data, dict):
        return {prefix: data}
    return {
        key: value
        for name, part in data.items()
        for key, value in flat(part, f"{prefix}.{name}" if prefix else name).items()
    }


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
