"""`uniapl train` as its user meets it: a process that is watched and stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import Tiny, assert_same_run, rows

from uniapl import cli
from uniapl.runs.checkpoint import checkpoint_steps

REWARD = '''
"""A reward that waits in its third call, if told to."""

import os
import time
from pathlib import Path

calls = 0

def commas(completions, **_):
    global calls
    calls += 1
    if calls == 3 and "WAIT_SECONDS" in os.environ:
        Path("ready").touch()
        time.sleep(float(os.environ["WAIT_SECONDS"]))
    return [-float(c.count(",")) for c in completions]
'''
WORDS = ("rewards=[{function: tiny_commas:commas}]", "method=mix")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tiny: Tiny, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts `uniapl train` into `run_folder`; keywords are environment variables."""
    (tmp_path / "tiny_commas.py").write_text(REWARD)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tiny_commas", raising=False)

    def run(*words: str, **environment: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "uniapl.cli", "train", str(tiny.config)]
        return subprocess.Popen(
            [*command, f"output_dir={run_folder}", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **environment},
        )

    return run


def wait_for(file: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 600
    while not file.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_saves_and_the_run_goes_on_to_the_same_end(
    tiny: Tiny,
    start: Start,
    run_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    """In another process than that in which it began."""
    process = start(*WORDS, WAIT_SECONDS="1")
    wait_for(tmp_path / "ready", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert out == ""
    *_, saved, last = err.splitlines()
    assert saved.endswith(" INFO saved step 3; go on with training.resume=auto")
    assert last == "interrupted"
    assert "Traceback" not in err
    assert checkpoint_steps(run_folder / "checkpoints") == [2, 3]

    words = (f"output_dir={run_folder}", *WORDS, "training.resume=auto")
    assert cli.main(["train", str(tiny.config), *words]) == 0
    out, err = capsys.readouterr()
    notes = err.splitlines()
    assert all(" INFO " in line for line in notes)
    assert notes[1].endswith(" INFO going on from step 3")
    assert len(notes) < 20
    assert out.splitlines()[-1] == f"policy: {run_folder / 'policy'}"
    assert_same_run(run_folder, tiny.train(tmp_path / "straight", *WORDS))


def test_ctrl_c_twice_stops_at_once(start: Start, run_folder: Path, tmp_path: Path):
    process = start(*WORDS, WAIT_SECONDS="100")
    wait_for(tmp_path / "ready", process)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while not (line := process.stderr.readline()).startswith("finishing the step, then saving;"):
        assert line == "\n" or " INFO " in line
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "interrupted\n"
    assert checkpoint_steps(run_folder / "checkpoints") == [2]
    assert len(rows(run_folder)) == 2


def test_another_signal_saves_and_has_its_own_status(
    start: Start, run_folder: Path, tmp_path: Path
):
    """Each of the signals: tests/runs/test_signals.py."""
    number = signal.SIGUSR1
    process = start(*WORDS, "--json", "--quiet", WAIT_SECONDS="1")
    wait_for(tmp_path / "ready", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 128 + number
    assert err.splitlines() == [
        "",
        f"{number.name}: finishing the step, then saving; a second signal stops at once",
        "interrupted",
    ]
    assert checkpoint_steps(run_folder / "checkpoints") == [2, 3]
    events = [json.loads(line) for line in out.splitlines()]
    steps = [{k: v for k, v in e.items() if k != "event"} for e in events if e["event"] == "step"]
    assert steps == rows(run_folder)
    assert events[-1] == {"event": "stopped", "step": 3}
