"""`uniapl train` as its user meets it: a process that is watched, stopped, piped and short of disk."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Tiny, assert_same_run, rows

from uniapl.training.checkpoint import checkpoint_steps

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
WORDS = ("rewards=[{function: tiny_commas:commas}]", "method=mix", "training.threads=2")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tiny: Tiny, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts `uniapl train` into `run_folder`; keywords are environment variables."""
    (tmp_path / "tiny_commas.py").write_text(REWARD)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tiny_commas", raising=False)

    def run(*words: str, limit_bytes: int | None = None, **environment: str) -> Any:
        def limit() -> None:
            if limit_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

        command = [sys.executable, "-m", "uniapl.cli", "train", str(tiny.config)]
        return subprocess.Popen(
            [*command, f"output_dir={run_folder}", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            preexec_fn=limit,
            env={**os.environ, "OMP_NUM_THREADS": "2", **environment},
        )

    return run


def wait_for(file: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_saves_and_the_run_goes_on_to_the_same_end(
    tiny: Tiny, start: Start, run_folder: Path, tmp_path: Path
):
    """With two threads, and in another process than the run that was never stopped."""
    process = start(*WORDS, WAIT_SECONDS="1")
    wait_for(tmp_path / "ready", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out.splitlines()[-1] == "saved step 3; go on with training.resume=auto"
    assert err.split("\n")[-2:] == ["interrupted", ""]
    assert "Traceback" not in err
    assert checkpoint_steps(run_folder / "checkpoints") == [2, 3]
    tiny.train(run_folder, *WORDS, "training.resume=auto")
    assert_same_run(run_folder, tiny.train(tmp_path / "straight", *WORDS))


def test_ctrl_c_twice_stops_at_once(start: Start, run_folder: Path, tmp_path: Path):
    process = start(*WORDS, WAIT_SECONDS="100")
    wait_for(tmp_path / "ready", process)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.readline() == "\n"
    assert process.stderr.readline().startswith("finishing the step, then saving;")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "interrupted\n"
    assert checkpoint_steps(run_folder / "checkpoints") == [2]
    assert len(rows(run_folder)) == 2


def test_a_run_says_little_and_nothing_on_stderr(start: Start, run_folder: Path):
    out, err = start("training.steps=2").communicate(timeout=120)
    assert err == ""
    lines = out.splitlines()
    assert lines[0].startswith("uniapl, seed 0: ")
    assert lines[-1] == f"policy: {run_folder / 'policy'}"
    assert len(lines) < 20


def test_a_run_outlives_the_reader_of_its_output(start: Start, run_folder: Path):
    process = start("method=sft")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=120) == 0
    process.stderr.close()
    assert (run_folder / "policy" / "model.safetensors").exists()


def test_a_disk_that_takes_no_more_is_one_line(start: Start, run_folder: Path):
    """A limit on the size of files stands in for a full disk: torch's real writer meets the error."""
    process = start("method=sft", limit_bytes=200_000)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    target = run_folder / "checkpoints" / "step_000002"
    assert err == f"error: cannot write {target}: File too large\n"
    assert list(run_folder.rglob(".*.writing")) == []
    assert checkpoint_steps(run_folder / "checkpoints") == []
