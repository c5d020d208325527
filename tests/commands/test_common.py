"""What commands have in common."""

from pathlib import Path

import pytest

from uniapl import cli
from uniapl.commands.common import given_path


def test_home_is_found_behind_an_equals_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shell leaves `~` alone in `--output=~/x`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert given_path("~/x") == tmp_path / "x"
    (tmp_path / "sentences.txt").write_text("Write about the sea.\n" * 2)
    words = ["prompts", str(tmp_path / "sentences.txt"), "--output=~/out.jsonl"]
    assert cli.main(words) == 0, capsys.readouterr().err
    assert (tmp_path / "out.jsonl").exists()
