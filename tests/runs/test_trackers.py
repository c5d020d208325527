"""What trackers are told is what the run folder holds; and none of them can cost a run."""

import json
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Tiny, rows

from uniapl.config.recipe import Recipe
from uniapl.errors import InputError
from uniapl.runs import trackers
from uniapl.runs.trackers import Trackers, check_installed

Told = dict[int, dict[str, float]]
"""Step → name → value."""

BLOCK, HEADER = 32768, 7
WHOLE, LAST = 1, 4
"""Of a W&B file, LevelDB's log format: blocks of records that may be cut into parts."""


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_PROJECT", "TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)


def expected(run: Path) -> Told:
    """What the run folder holds: metrics that are not null, and evaluations."""
    told = {
        row["step"]: {k: v for k, v in row.items() if k != "step" and v is not None}
        for row in rows(run)
    }
    for file in run.glob("evaluations/*/results.json"):
        results = json.loads(file.read_text())
        values = told.setdefault(results["step"], {})
        for name, value in results.items():
            if name not in ("step", "n") and isinstance(value, float):
                values[f"evaluation/{name}"] = value
    return told


def told_tensorboard(run: Path) -> Told:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "trackers" / "tensorboard"), purge_orphaned_data=False)
    events.Reload()
    told: Told = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            assert name not in told.get(event.step, {}), f"{name} stands twice"
            told.setdefault(event.step, {})[name] = event.value
    return told


def wandb_records(file: Path) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    data, place, record = file.read_bytes(), HEADER, b""
    while place + HEADER <= len(data):
        if (left := BLOCK - place % BLOCK) < HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (WHOLE, LAST):
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def told_wandb(run: Path) -> tuple[Told, dict[str, Any]]:
    """The history, and what says which run it is."""
    (file,) = (run / "trackers" / "wandb").glob("wandb/offline-run-*/*.wandb")
    told: Told = {}
    about: dict[str, Any] = {}
    for record in wandb_records(file):
        if record.WhichOneof("record_type") == "history":
            step = record.history.step.num
            assert step not in told, f"step {step} stands twice"
            items = {i.key or "/".join(i.nested_key): i for i in record.history.item}
            told[step] = {
                n: json.loads(i.value_json) for n, i in items.items() if not n.startswith("_")
            }
        elif record.WhichOneof("record_type") == "run":
            settings = {u.key: json.loads(u.value_json) for u in record.run.config.update}
            about = {"id": record.run.run_id, "project": record.run.project, "config": settings}
    return told, about


def assert_told(told: Told, run: Path) -> None:
    wanted = expected(run)
    assert {step: set(values) for step, values in told.items()} == {
        step: set(values) for step, values in wanted.items()
    }
    for step, values in wanted.items():
        assert told[step] == pytest.approx(values, rel=1e-6), step  # TensorBoard's are float32


def run_id(run: Path) -> str:
    return json.loads((run / "environment.json").read_text())["run_id"]


def test_trackers_are_told_all_that_the_run_folder_holds(tiny: Tiny, tmp_path: Path) -> None:
    """Also of a run that went back to a checkpoint, each step once."""
    pytest.importorskip("tensorboard")
    pytest.importorskip("wandb")
    words = ("training.trackers=[tensorboard,wandb]", "evaluation.limit=2")
    run = tiny.train(tmp_path / "run", *words, "training.gradients_every=2")
    assert_told(told_tensorboard(run), run)
    told, about = told_wandb(run)
    assert_told(told, run)
    assert about["id"] == run_id(run)
    assert about["project"] == "uniapl"
    assert about["config"]["optimizer.learning_rate"] == 1e-3
    assert about["config"]["training.trackers"] == '["tensorboard", "wandb"]'
    assert "constraint.target" not in about["config"]
    assert len(list((run / "trackers" / "tensorboard").glob("*/hparams.yml"))) == 1

    back = f"training.resume={run / 'checkpoints' / 'step_000002'}"
    tiny.train(run, *words, back, "training.steps=6")
    assert max(expected(run)) == 6
    assert_told(told_tensorboard(run), run)
    again, about_again = told_wandb(run)
    assert_told(again, run)
    assert about_again["id"] == about["id"]


def test_trackio_is_told_too(tiny: Tiny, tmp_path: Path) -> None:
    """In processes of its own: trackio keeps to the folder with which it was imported."""
    pytest.importorskip("trackio")
    run = tmp_path / "run"
    train = [sys.executable, "-m", "uniapl.cli", "train", str(tiny.config), f"output_dir={run}"]
    words = ["training.trackers=[trackio]", "evaluation.limit=2"]
    back = ["training.steps=5", f"training.resume={run / 'checkpoints' / 'step_000002'}"]
    for more in ([], back):
        done = subprocess.run([*train, *words, *more], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"policy: {run / 'policy'}"
        told: Told = {}
        with sqlite3.connect(run / "trackers" / "trackio" / "uniapl.db") as database:
            for step, text in database.execute("SELECT step, metrics FROM metrics"):
                values = json.loads(text)
                assert not told.get(step, {}).keys() & values.keys()
                told.setdefault(step, {}).update(values)
            ((name, config),) = database.execute("SELECT run_name, config FROM configs")
        assert_told(told, run)
        assert name == "run"
        assert json.loads(config)["training.trackers"] == '["trackio"]'


def test_what_is_not_installed_is_said_before_anything_is_loaded(
    tiny: Tiny, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_spec(name: str) -> object | None:
        return None if name in ("accelerate", "trackio") else object()

    monkeypatch.setattr(trackers, "find_spec", find_spec)
    with pytest.raises(InputError) as error:
        tiny.train(run_folder, "training.trackers=[trackio]", "model.path=nowhere")
    assert str(error.value) == (
        "training.trackers: accelerate and trackio not installed here; "
        "run pip install 'uniapl[trackers]'"
    )
    assert not run_folder.exists()
    check_installed(())


def test_a_tracker_that_cannot_start_is_an_error(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "trackers").write_text("in the way")
    config = Recipe.of(tiny.load(tmp_path, "training.trackers=[tensorboard]")).config
    with pytest.raises(
        InputError, match=r"^training\.trackers: tensorboard cannot start: .*Not a directory"
    ):
        Trackers(config, tmp_path, "id")


def test_a_tracker_that_fails_is_left_out(
    tiny: Tiny, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("tensorboard")
    from accelerate.tracking import TensorBoardTracker

    log = TensorBoardTracker.log

    def failing(self: TensorBoardTracker, values: dict[str, float], step: int) -> None:
        if step == 2:
            raise ConnectionError("the line\nis dead")
        log(self, values, step=step)

    monkeypatch.setattr(TensorBoardTracker, "log", failing)
    tiny.train(run_folder, "training.trackers=[tensorboard]", "evaluation.prompts=null")
    assert [row["step"] for row in rows(run_folder)] == [1, 2, 3, 4]
    assert set(told_tensorboard(run_folder)) == {1}
    warnings = [line for line in capsys.readouterr().err.splitlines() if "tensorboard" in line]
    assert len(warnings) == 1
    assert "tensorboard has failed and is left out (the line is dead)" in warnings[0]


def test_without_trackers_nothing_of_them_is_loaded(tiny: Tiny, run_folder: Path) -> None:
    code = (
        "import sys; from uniapl.cli import main; "
        f"main(['train', {str(tiny.config)!r}, 'output_dir={run_folder}', 'training.steps=2',"
        " 'evaluation.prompts=null']); print([m for m in sys.modules if m in "
        "('tensorboard', 'wandb', 'trackio')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert not (run_folder / "trackers").exists()
