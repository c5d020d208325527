"""Commands side by side: how many at once, what they receive, and how they are stopped."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from uniapl.comparing.processes import Command, run_all, threads_per_job

WAIT = """
import pathlib, signal, sys, time
me = pathlib.Path(sys.argv[1])
def stop(*_):
    me.with_suffix(".stopped").touch()
    sys.exit(130)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
me.with_suffix(".started").touch()
time.sleep(60)
"""


def drive(folder: Path) -> None:
    """Run two commands that wait, one after the other."""
    commands = [
        Command((sys.executable, "-c", WAIT, str(folder / name)), folder / f"{name}.log")
        for name in ("a", "b")
    ]
    for _ in run_all(commands, 1, {}):
        pass


def python(code: str, log: Path) -> Command:
    return Command((sys.executable, "-c", code), log)


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 300
    while not file.exists():
        assert time.monotonic() < deadline, file
        time.sleep(0.05)


def test_every_command_ends_with_its_status_and_its_words(tmp_path: Path):
    commands = [python(f"print({n}); raise SystemExit({n})", tmp_path / str(n)) for n in range(3)]
    found = {command.log.name: status for command, status in run_all(commands, 2, {})}
    assert found == {"0": 0, "1": 1, "2": 2}
    assert (tmp_path / "2").read_text() == "2\n"


def test_never_more_at_once_than_asked(tmp_path: Path):
    code = "import time; print(time.time()); time.sleep(0.3); print(time.time())"
    list(run_all([python(code, tmp_path / str(n)) for n in range(3)], 1, {}))
    times = [list(map(float, (tmp_path / str(n)).read_text().split())) for n in range(3)]
    assert times[0][1] <= times[1][0] <= times[1][1] <= times[2][0]


def test_jobs_share_the_threads_and_what_they_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert [threads_per_job(n) for n in (1, 2, 3, 8)] == [4, 2, 1, 1]
    show = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['SHARED'])"
    list(run_all([python(show, tmp_path / "log")], 2, {"SHARED": "a folder"}))
    assert (tmp_path / "log").read_text() == "2 a folder\n"
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert threads_per_job(1) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_commands_are_asked_to_stop_when_we_are(tmp_path: Path, number: int):
    """Killed outright we cannot ask; the system does."""
    driver = multiprocessing.get_context("fork").Process(target=drive, args=(tmp_path,))
    driver.start()
    try:
        wait_for(tmp_path / "a.started")
        assert driver.pid is not None
        os.kill(driver.pid, number)
        wait_for(tmp_path / "a.stopped")
        driver.join(timeout=60)
        assert driver.exitcode
    finally:
        driver.kill()
    assert not (tmp_path / "b.started").exists()
