"""What `train` returns: a run folder, read when it is asked."""

import json
import os
from pathlib import Path
from typing import Any

from uniapl.errors import InputError
from uniapl.runs.checkpoint import POLICY, checkpoint_steps, step_name
from uniapl.runs.metrics import read_rows


class Run(os.PathLike[str]):
    """A run, finished or not. Where a path is wanted it is its folder.

    Example:
        run = uniapl.Run("runs/first")
        run.results["prompt_level_strict_acc"], run.metrics[-1]["reward/mean"], run.policy
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open a folder that `uniapl train` has made.

        Raises:
            InputError: It is none.
        """
        self.folder = Path(folder)
        """The run folder (docs/run-folder.md)."""
        if not (self.folder / "config.yaml").is_file():
            raise InputError(f"{self.folder}: is no run folder; it has no config.yaml")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, one per step; `pandas.DataFrame(run.metrics)` makes a table of them."""
        return read_rows(self.folder / "metrics.jsonl")

    @property
    def results(self) -> dict[str, Any]:
        """What the last evaluation inside the run has measured; empty where there was none."""
        files = sorted((self.folder / "evaluations").glob("step_*/results.json"), key=_step_of)
        return json.loads(files[-1].read_text(encoding="utf-8")) if files else {}

    @property
    def is_finished(self) -> bool:
        """Whether it has come to its last step and saved the policy."""
        return (self.folder / POLICY).is_dir()

    @property
    def policy(self) -> Path | None:
        """The trained model's folder; of a run that has been stopped, the newest checkpoint's; None: there is none."""
        if self.is_finished:
            return self.folder / POLICY
        checkpoints = self.folder / "checkpoints"
        steps = checkpoint_steps(checkpoints)
        return checkpoints / step_name(steps[-1]) / POLICY if steps else None

    def __fspath__(self) -> str:
        return str(self.folder)

    __str__ = __fspath__

    def __truediv__(self, name: str | os.PathLike[str]) -> Path:
        """Return a path inside the folder."""
        return self.folder / name

    def __repr__(self) -> str:
        steps = [row["step"] for row in self.metrics[-1:]] or [0]
        state = "finished" if self.is_finished else "not finished"
        return f"Run({str(self)!r}, step {steps[0]}, {state})"


def _step_of(file: Path) -> int:
    return int(file.parent.name.removeprefix("step_"))
