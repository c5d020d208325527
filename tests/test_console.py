"""A console that is closed, full or short of characters ends no command."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from uniapl.console import UnfailingStream, unfailing_streams

COMMAND = f"{sys.executable} -m uniapl.cli"


def run(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, errors="replace", timeout=120,
        env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    (tmp_path / "s.txt").write_text("Why do birds sing → at λ?\n", encoding="utf-8")
    (tmp_path / "ünï→.txt").write_text("Why do birds sing?\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "streams", [">&-", ">/dev/full", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full", "| head -c 1"]
)
def test_a_console_that_takes_nothing_is_no_failure(streams: str, seeds: Path):
    done = run(f"{COMMAND} prompts s.txt --output o.jsonl {streams}", seeds)
    assert (done.returncode, done.stderr) == (0, "")
    assert (seeds / "o.jsonl").read_text(encoding="utf-8").count("\n") == 1
    # nothing that was printed went into a file that took the number of a closed stream
    assert "prompts from" not in (seeds / "o.jsonl").read_text(encoding="utf-8")
    done = run(f"{COMMAND} --version {streams}", seeds)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_keeps_its_status_without_a_console(seeds: Path):
    assert run(f"{COMMAND} prompts no.txt --output o >&- 2>&-", seeds).returncode == 2


def test_what_is_only_printed_is_lost_on_a_full_disk_and_that_is_said(tmp_path: Path):
    done = run(f"{COMMAND} config reference >/dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "ascii:strict", "utf-8"])
def test_characters_that_a_console_lacks_are_replaced(encoding: str, seeds: Path):
    words = "prompts ünï→.txt --output ö→.jsonl"
    done = run(f"{COMMAND} {words}", seeds, PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    last = done.stdout.splitlines()[-1] if encoding != "latin-1" else ""
    assert last in ("", "wrote ö→.jsonl", "wrote ??.jsonl")
    assert (seeds / "ö→.jsonl").exists()
    done = run(f"{COMMAND} prompts ünï→ --output x", seeds, PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_printed_config_loses_no_character(seeds: Path):
    (seeds / "c.yaml").write_text(
        "output_dir: λ→\nmodel: {path: m}\nmethod: sft\ntraining: {steps: 1}\ndata: {demonstrations: d.jsonl}\n",
        encoding="utf-8",
    )
    done = run(f"{COMMAND} config show c.yaml > shown.yaml", seeds, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "λ→" in (seeds / "shown.yaml").read_text(encoding="utf-8")


class Full(io.StringIO):
    """A device that is full for some writes."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    def write(self, text: str) -> int:
        if self.failures:
            self.failures -= 1
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_full_device_gets_the_next_words():
    device = Full(1)
    stream = UnfailingStream(device)
    assert stream.write("a") == 1
    stream.write("b")
    assert device.getvalue() == "b"
    assert stream.failure is not None
    assert stream.failure.strerror == "No space left on device"


def test_a_closed_stream_is_silent_and_the_old_streams_come_back():
    device = io.StringIO()
    stream = UnfailingStream(device)
    device.close()
    stream.write("a")
    stream.flush()
    assert not stream.isatty()
    before = sys.stdout
    with unfailing_streams():
        assert isinstance(sys.stdout, UnfailingStream)
    assert sys.stdout is before
