"""`uniapl env`: what a bug report begins with, also where torch does not load."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import uniapl
from uniapl import cli


def test_it_says_what_numbers_depend_on(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["uniapl"] == uniapl.__version__
    assert found["torch"]["version"] == torch.__version__
    assert found["torch"]["threads"] == torch.get_num_threads()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert 0 < found["memory_gib"]["free"] <= found["memory_gib"]["total"]
    assert found["packages"]["pydantic"]
    assert found["git_commit"] is None or len(found["git_commit"]) == 40


def test_the_lines_are_for_people(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert cli.main(["env"]) == 0
    out = capsys.readouterr().out
    assert f"torch          {torch.__version__}" in out
    assert "HF_HUB_OFFLINE=1" in out
    assert "secret" not in out


def test_a_broken_torch_is_reported_and_not_raised(tmp_path: Path):
    """A module of the name that fails as a build for another system does."""
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open')\n")
    path = os.pathsep.join([str(tmp_path), str(Path(uniapl.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-m", "uniapl", "env"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0
    assert "torch          cannot be loaded: OSError: libcudart.so.13: cannot open" in done.stdout


def test_what_macos_and_windows_do_not_say_is_unknown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """macOS has no affinity and knows no free pages, Windows has no sysconf; here both are hidden."""
    sysconf = os.sysconf

    def macos(name: str) -> int:
        if name == "SC_AVPHYS_PAGES":
            raise ValueError("unrecognized configuration name")
        return sysconf(name)

    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "sysconf", macos)
    assert cli.main(["env"]) == 0
    said = capsys.readouterr().out
    assert " GiB, unknown free\n" in said
    assert f"{os.cpu_count()} cores" in said
    monkeypatch.delattr(os, "sysconf")
    assert cli.main(["env"]) == 0
    assert "memory         unknown, unknown free\n" in capsys.readouterr().out
