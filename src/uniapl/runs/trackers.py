"""TensorBoard, Weights & Biases and trackio, by accelerate's trackers: a copy of the numbers in the run folder.

The run folder has everything, so a tracker may never cost a run: one that cannot start is an error before
the first step, one that fails later is left out with a warning. A resumed run tells its trackers all
steps again, from the run folder, so that none stands twice or is missing; their files are made anew.
"""

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from uniapl.config import dump_config, resolved
from uniapl.config.schema import Config
from uniapl.config.strict_yaml import load_yaml
from uniapl.errors import InputError
from uniapl.runs.checkpoint import step_name
from uniapl.runs.metrics import read_rows
from uniapl.runs.run_folder import flat

FOLDER = "trackers"
PROJECT = "uniapl"
NO_METRICS = ("step", "n")
"""Numbers of `results.json` that measure nothing."""

Say = Callable[[str], None]


def check_installed(names: tuple[str, ...]) -> None:
    """Check, before anything is loaded, that the chosen trackers are there.

    Raises:
        InputError: Says what to install.
    """
    missing = [name for name in ("accelerate", *names) if find_spec(name) is None]
    if names and missing:
        raise InputError(
            f"training.trackers: {' and '.join(missing)} not installed here; "
            "run pip install 'uniapl[trackers]'"
        )


class Trackers:
    """The trackers of a run, started; none if none was chosen."""

    def __init__(self, config: Config, run: Path, run_id: str) -> None:
        """Start the trackers of `training.trackers`.

        Args:
            config: Resolved; its values become the run's hyper-parameters.
            run: The run folder; the trackers' files go into `trackers`.
            run_id: Names the run to W&B, the same whenever it goes on.

        Raises:
            InputError: One cannot start, for want of a login or a network; nothing of it stays.
        """
        self._running: dict[str, Any] = {}  # accelerate's GeneralTracker does not declare `tracker`
        self._takes_from: dict[str, int] = {}
        self._say: Say = lambda _: None
        if not config.training.trackers:
            return
        from accelerate import PartialState

        # its trackers ask which process is the main one
        PartialState(cpu=config.training.device == "cpu")
        settings, folder = _settings(config), run / FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        for name in config.training.trackers:
            try:
                with redirect_stdout(sys.stderr):
                    tracker = _START[name](folder / name, run.name, run_id, settings)
            except Exception as error:  # whatever a foreign library and its network come up with
                self._close()
                shutil.rmtree(folder, ignore_errors=True)
                reason = _reason(error)
                raise InputError(f"training.trackers: {name} cannot start: {reason}") from error
            self._running[name] = tracker
            # W&B online holds the steps of a run that goes on, and takes none twice
            self._takes_from[name] = getattr(tracker.tracker, "starting_step", 0)

    @contextmanager
    def reporting_to(self, say: Say) -> Iterator[None]:
        """Warn through `say` when a tracker fails, and stop all at the end."""
        self._say = say
        try:
            yield
        finally:
            self._close()

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Tell all trackers the metrics of a step, under the names of `metrics.jsonl`; nulls are left out."""
        values = {name: value for name, value in metrics.items() if _is_number(value)}
        for name, tracker in list(self._running.items()):
            if step >= self._takes_from[name]:
                with self._spared(name):
                    tracker.log(values, step=step)

    def log_evaluation(self, step: int, results: Mapping[str, Any]) -> None:
        """Tell all trackers the metrics of an evaluation, as `evaluation/…`."""
        measured = {k: value for k, value in results.items() if k not in NO_METRICS}
        self.log(step, {f"evaluation/{name}": value for name, value in measured.items()})

    def tell_again(self, run: Path, last_step: int) -> None:
        """Tell all trackers what a run folder holds up to the step from which the run goes on."""
        if not self._running:
            return
        rows = {row.pop("step"): row for row in read_rows(run / "metrics.jsonl")}
        for step in range(last_step + 1):
            if step in rows:
                self.log(step, rows[step])
            results = run / "evaluations" / step_name(step) / "results.json"
            if results.exists():
                self.log_evaluation(step, json.loads(results.read_text(encoding="utf-8")))

    def _close(self) -> None:
        for name, tracker in list(self._running.items()):
            with self._spared(name), redirect_stdout(sys.stderr):
                tracker.finish()
        self._running.clear()

    @contextmanager
    def _spared(self, name: str) -> Iterator[None]:
        """Go on without a tracker that fails inside."""
        try:
            yield
        except Exception as error:  # as above; no tracker is worth a run
            del self._running[name]
            self._say(
                f"{name} has failed and is left out ({_reason(error)}); metrics.jsonl has all "
                "that it misses, and a resumed run tells it again"
            )


def _start_tensorboard(folder: Path, name: str, run_id: str, settings: dict[str, Any]) -> Any:
    from accelerate.tracking import TensorBoardTracker

    tracker = TensorBoardTracker(folder.name, folder.parent)
    tracker.start()
    tracker.store_init_configuration(settings)
    return tracker


def _start_wandb(folder: Path, name: str, run_id: str, settings: dict[str, Any]) -> Any:
    import wandb
    from accelerate.tracking import WandBTracker

    folder.mkdir(parents=True)  # else W&B takes a temporary folder
    tracker = WandBTracker(
        os.environ.get("WANDB_PROJECT", PROJECT),
        name=name,
        id=run_id,
        resume="allow",
        dir=folder,
        config=settings,
        settings=wandb.Settings(console="off"),  # it would wrap the live line
    )
    tracker.start()
    return tracker


def _start_trackio(folder: Path, name: str, run_id: str, settings: dict[str, Any]) -> Any:
    theirs = os.environ.get("TRACKIO_DIR")
    os.environ["TRACKIO_DIR"] = theirs or str(folder)  # read once, when trackio is imported
    try:
        import trackio  # pyright: ignore[reportMissingImports]
        from accelerate.tracking import TrackioTracker
        from trackio.utils import TRACKIO_DIR  # pyright: ignore[reportMissingImports]
    finally:
        if theirs is None:
            del os.environ["TRACKIO_DIR"]
    if Path(theirs or folder) != TRACKIO_DIR:
        raise InputError(f"this process has used {TRACKIO_DIR} for it already; start another one")
    tracker = TrackioTracker(PROJECT, name=name, config=settings)
    tracker.start()
    tracker.finish = trackio.finish  # accelerate's leaves the run to be finished once more at exit
    return tracker


_START = {"tensorboard": _start_tensorboard, "wandb": _start_wandb, "trackio": _start_trackio}


def _settings(config: Config) -> dict[str, Any]:
    """Return what `config.yaml` says by dotted key, nulls left out, lists as text."""
    values = flat(load_yaml(dump_config(resolved(config)), "config"))
    return {
        key: json.dumps(value) if isinstance(value, list) else value
        for key, value in values.items()
        if value is not None
    }


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
