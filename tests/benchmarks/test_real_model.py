"""Slices: what is done stays done, what is cut off goes on, what fails is said."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import uniapl
from benchmarks import real_model
from benchmarks.slices import Piece, Slice
from uniapl.comparing import read_plan
from uniapl.config import load_config
from uniapl.errors import InputError

STEPS = """\
import signal, sys, time
from pathlib import Path
mode, file = sys.argv[1], Path(sys.argv[2])
stopped = []
signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
with file.open("a") as log:
    if mode == "fail":
        sys.exit("error: no luck")
    while mode == "slow" and not stopped:
        log.write(".")
        log.flush()
        time.sleep(0.01)
    log.write("saved" if stopped else "made")
sys.exit(130 if stopped else 0)
"""


@pytest.fixture(autouse=True)
def _steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "steps.py").write_text(STEPS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def piece(tmp_path: Path, mode: str, *words: str, can_change: bool = False) -> Piece:
    return Piece("some piece", ("steps", mode, str(tmp_path / "made"), *words), can_change)


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    for _ in range(2):
        assert Slice(tmp_path, 1).run(piece(tmp_path, "make"))
    assert (tmp_path / "made").read_text() == "made"


def test_other_options_run_again_or_are_refused(tmp_path: Path) -> None:
    part = Slice(tmp_path, 1)
    part.run(piece(tmp_path, "make"))
    with pytest.raises(InputError, match="some piece made with other options"):
        part.run(piece(tmp_path, "make", "more"))
    assert part.run(piece(tmp_path, "make", "more", can_change=True))
    assert (tmp_path / "made").read_text() == "mademade"


def test_what_the_slice_cuts_off_saves_itself_and_goes_on(tmp_path: Path) -> None:
    part = Slice(tmp_path, 2 / 60)  # of which a quarter is there to save
    started = time.monotonic()
    assert not part.run(piece(tmp_path, "slow"))
    assert 1 < time.monotonic() - started < 10
    assert (tmp_path / "made").read_text().endswith(".saved")
    assert (part.is_left, part.failed) == (True, [])
    assert not Slice(tmp_path, 0).run(piece(tmp_path, "make"))  # no time at all: not begun
    assert Slice(tmp_path, 1).run(piece(tmp_path, "make"))


def test_a_failure_is_said_with_its_last_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = Slice(tmp_path, 1)
    assert not part.run(piece(tmp_path, "fail"))
    assert (part.failed, part.is_left) == (["some piece"], False)
    assert "some piece failed (status 1): error: no luck" in capsys.readouterr().err


def test_the_expert_answers_where_it_can(tmp_path: Path) -> None:
    asked, answered = tmp_path / "asked", tmp_path / "answered"
    asked.write_text('{"key": 1, "prompt": "a"}\n{"key": 2, "prompt": "b"}\n')
    answered.write_text('{"key": 2, "prompt": "b", "completion": "c"}\n')
    real_model.join_answers(asked, answered, tmp_path / "joined")
    rows = [json.loads(line) for line in (tmp_path / "joined").read_text().splitlines()]
    assert rows == [{"key": 1, "prompt": "a"}, {"key": 2, "prompt": "b", "completion": "c"}]


def test_types_that_training_lacks_choose_no_setting(tmp_path: Path) -> None:
    kinds = ["types", "phrasings", "phrasings", "types", "phrasings"]
    rows = [{"key": n, "held_out": kind} for n, kind in enumerate(kinds)]
    (tmp_path / "all").write_text("".join(json.dumps(row) + "\n" for row in rows))
    real_model.write_validation(tmp_path / "all", tmp_path / "some", 2)
    kept = [json.loads(line)["key"] for line in (tmp_path / "some").read_text().splitlines()]
    assert kept == [1, 2]


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    for name in ("seeds", "ifeval"):
        (tmp_path / name).write_text("")
    files = [f"--{name}={tmp_path / name}" for name in ("seeds", "ifeval")]
    return [*files, f"--model={tmp_path}", f"--output={tmp_path / 'out'}"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods=grpo,unipal"], "--methods: 'unipal' is none of"),
        (["training.stps=2"], "training.stps"),
    ],
)
def test_wrong_input_is_refused_before_anything_runs(
    words: list[str], message: str, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert real_model.main([*given, *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--minutes=0"], ["--asked=x"], ["steps"], ["--minute-s=1"]])
def test_wrong_options(words: list[str], given: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        real_model.main([*given, *words])


def test_a_slice_without_time_says_that_something_is_left(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert real_model.main([*given, "--minutes=1e-9"]) == 75
    assert capsys.readouterr().out.endswith("something is left: call it again\n")


def test_ctrl_c_lets_the_running_piece_save_itself(tmp_path: Path) -> None:
    script = f"""\
import signal
from pathlib import Path
from benchmarks.real_model import _interrupt
from benchmarks.slices import Piece, Slice
signal.signal(signal.SIGINT, _interrupt)
Slice(Path({str(tmp_path)!r}), 5).run(Piece("slow", ("steps", "slow", {str(tmp_path / "made")!r})))
"""
    modules = (real_model.__file__, uniapl.__file__)
    roots = [*(str(Path(module).parents[1]) for module in modules), os.environ["PYTHONPATH"]]
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        start_new_session=True,
        stderr=subprocess.PIPE,
    )
    while not (tmp_path / "made").exists() or not (tmp_path / "made").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in errors
    assert (tmp_path / "made").read_text().endswith(".saved")


def test_every_arm_chooses_from_the_same_values_and_given_grids_replace_them(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    file = str(tmp_path / "file")
    words = ["--model", file, "--seeds", file, "--ifeval", file, "--methods", "grpo,u=uniapl"]
    form = ["u:discriminator.form=expert", "u:discriminator.hint=true"]
    rates = [f"{arm}:{real_model.RATES}" for arm in ("grpo", "u")]
    weight = "u:objective.sft_weight=1"
    for more, grids in [
        ([], [*rates, weight]),
        (["--untuned"], []),
        (["--grid", "grpo:a=1", "--grid", "u:b=2"], ["grpo:a=1", "u:b=2"]),
        (["--form", "expert"], [*rates, weight, *form]),
        (["--untuned", "--form", "expert"], form),
        (["--untuned", "--form-path", file], [f"u:discriminator.path={file}"]),
        (
            ["--untuned", "--form", "expert", "--form-path", file],
            ["u:discriminator.form=expert", f"u:discriminator.path={file}"],
        ),
    ]:
        options = real_model.parse([*words, *more])
        assert real_model.comparison(options, "0") == ("grpo,u=uniapl", ["0"], grids, "grpo")
    methods, seeds, grids, baseline = real_model.comparison(real_model.parse(words), "0")
    assert {len(arm.settings) for arm in read_plan(methods, seeds, grids, baseline).arms} == {2}


def test_own_words_win_over_the_budget_of_the_script(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    named = [f"--{name}={tmp_path / 'file'}" for name in ("model", "seeds", "ifeval")]
    for more, steps in (([], 60), (["training.steps=7"], 7)):
        options = real_model.parse([*named, *more])
        assert options.methods == "grpo,sft-grpo,mix,uniapl"
        config = load_config(real_model.CONFIG, real_model.settings(options, tmp_path))
        assert config.training.steps == steps
        assert len(config.evaluation.metrics) == len(real_model.METRICS)
