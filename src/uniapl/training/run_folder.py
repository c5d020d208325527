"""The run folder: who may write into it, what a resumed run keeps of it, and where the run came from."""

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from uniapl import __version__
from uniapl.config import dump_config, load_config, resolved
from uniapl.config.schema import Config
from uniapl.training.checkpoint import (
    checkpoint_steps,
    drop_after,
    load_state,
    replace_file,
    step_name,
)
from uniapl.types import InputError

FORMAT = 1
"""Version of the run folder's layout."""
MAY_CHANGE = {
    "output_dir",
    "training.steps",
    "training.resume",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.evaluate_every",
    "training.rollouts_logged_per_step",
    "training.micro_batch_tokens",
    "training.logit_chunk_tokens",
    "training.threads",
    "training.device",
    "rollout.max_rows",
}
"""Keys in which a resumed run may differ: none of them changes what is learned, up to rounding."""


@dataclass(slots=True)
class RunFolder:
    """A folder that this process alone may write."""

    path: Path
    checkpoint: Path | None
    """Where the run goes on from; None: it starts."""
    state: dict[str, Any] | None
    """That checkpoint's."""
    _lock: IO[str]

    @property
    def step(self) -> int:
        """Updates done before this process."""
        return self.state["step"] if self.state else 0

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def close(self) -> None:
        """Let other processes in."""
        self._lock.close()

    def start(self, config: Config, definitions: dict[str, str], device: str) -> None:
        """Remove what the checkpoint does not know, and write what the run is."""
        for folder, suffix in (("rollouts", ".jsonl"), ("evaluations", "")):
            for item in (self.path / folder).glob(f"step_*{suffix}"):
                step = int(item.stem.removeprefix("step_"))
                if step <= self.step and (self.state or step):
                    continue
                shutil.rmtree(item) if item.is_dir() else item.unlink()
        drop_after(self.checkpoints, self.step)
        replace_file(self.path / "config.yaml", dump_config(resolved(config)))
        replace_file(self.path / "definitions.json", _json(definitions))
        replace_file(self.path / "environment.json", _json(environment(device)))


def open_run_folder(config: Config) -> RunFolder:
    """Claim `output_dir` and find where the run goes on from.

    Raises:
        InputError: The folder holds another run, another process writes it, or the checkpoint asked for
            is not one.
    """
    path = Path(config.output_dir)
    _check_free(path, config)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output_dir: cannot make {path}: {error.strerror}") from None
    lock = (path / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise InputError(f"output_dir: another process is writing {path}") from None
    checkpoint = _checkpoint(path, config)
    state = load_state(checkpoint) if checkpoint else None
    if state and state["step"] > config.training.steps:
        raise InputError(
            f"training.steps {config.training.steps}: {checkpoint} has done {state['step']} already"
        )
    return RunFolder(path, checkpoint, state, lock)


def _check_free(path: Path, config: Config) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"output_dir: {path} is a file")
    if not (path / "config.yaml").exists():
        if path.is_dir() and any(p.name != ".lock" for p in path.iterdir()):
            raise InputError(f"output_dir: {path} is not empty and holds no run")
        return
    if config.training.resume == "never":
        raise InputError(
            f"output_dir: {path} holds a run already; choose another folder, or go on with "
            "training.resume=auto"
        )
    old = _flat(load_config(path / "config.yaml").model_dump(mode="json"))
    new = _flat(resolved(config).model_dump(mode="json"))
    changed = [
        f"{key} was {old.get(key)!r}, is {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in MAY_CHANGE
    ]
    if changed:
        raise InputError(
            f"output_dir: {path} holds a run with other settings: {'; '.join(changed)}"
        )


def _checkpoint(path: Path, config: Config) -> Path | None:
    resume = config.training.resume
    if resume == "never":
        return None
    if resume != "auto":
        return Path(resume)
    steps = checkpoint_steps(path / "checkpoints")
    return path / "checkpoints" / step_name(steps[-1]) if steps else None


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix: data}
    return {
        key: value
        for name, part in data.items()
        for key, value in _flat(part, f"{prefix}.{name}" if prefix else name).items()
    }


def environment(device: str) -> dict[str, Any]:
    """Return what a run's numbers depend on besides its config."""
    import torch

    return {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": _git_commit(),
        "versions": {
            "python": platform.python_version(),
            "uniapl": __version__,
            **{name: version(name) for name in ("torch", "transformers", "numpy")},
        },
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _git_commit() -> str | None:
    folder = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
