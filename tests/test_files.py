"""Outputs are checked before any work and never take an input's place."""

import json
import os
from pathlib import Path

import pytest

from uniapl.errors import InputError
from uniapl.files import check_outputs, fingerprint, write_rows, write_text


def refused(outputs: dict, inputs: dict | None = None) -> str:
    with pytest.raises(InputError) as caught:
        check_outputs(outputs, inputs)
    return str(caught.value)


@pytest.mark.parametrize("link", ["same", "dotted", "symbolic", "hard", "folder"])
def test_an_input_and_another_output_are_never_replaced(tmp_path: Path, link: str):
    source = tmp_path / "in.jsonl"
    source.write_text("mine")
    other = tmp_path / "other.jsonl"
    if link == "same":
        other = source
    elif link == "dotted":
        other = tmp_path / "x" / ".." / "in.jsonl"
        (tmp_path / "x").mkdir()
    elif link == "symbolic":
        other.symlink_to(source)
    elif link == "hard":
        os.link(source, other)
    else:
        (tmp_path / "again").symlink_to(tmp_path)
        other = tmp_path / "again" / "in.jsonl"
    assert (
        refused({"--output": other}, {"the prompts": source})
        == "--output would overwrite the prompts"
    )
    assert (
        refused({"--output": source, "--held-out": other}) == "--held-out would overwrite --output"
    )
    assert source.read_text() == "mine"


def test_what_cannot_be_written_is_refused_and_nothing_is_left(tmp_path: Path):
    (tmp_path / "file").touch()
    assert "is a folder" in refused({"--output": tmp_path})
    assert "cannot be written: Not a directory" in refused({"--output": tmp_path / "file" / "o"})
    assert "File name too long" in refused({"--output": tmp_path / ("a" * 300)})
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "link to itself" in refused({"--output": tmp_path / "loop"})
    check_outputs({"--output": tmp_path / "a" / "b" / "o"}, {"the seeds": "owner/name"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_protected_files_and_folders_are_refused(tmp_path: Path):
    (tmp_path / "o").touch(mode=0o444)
    assert "write-protected" in refused({"--output": tmp_path / "o"})
    tmp_path.chmod(0o555)
    assert "Permission denied" in refused({"--output": tmp_path / "new"})
    tmp_path.chmod(0o755)


def test_links_stay_links_and_names_of_others_are_left_alone(tmp_path: Path):
    (tmp_path / "data").mkdir()
    link, target = tmp_path / "o.jsonl", tmp_path / "data" / "real.jsonl"
    link.symlink_to(target)
    (tmp_path / ".o.jsonl").write_text("mine")
    write_rows(link, [{"a": "é"}])
    assert link.is_symlink()
    assert target.read_text(encoding="utf-8") == '{"a": "é"}\n'
    target.chmod(0o600)
    write_text(link, "new")
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("new", 0o600)
    assert (tmp_path / ".o.jsonl").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        ".o.jsonl",
        "data",
        "o.jsonl",
        "real.jsonl",
    ]


def test_what_is_no_file_is_written_and_not_replaced(tmp_path: Path):
    assert os.stat(os.devnull).st_rdev
    check_outputs({"--output": os.devnull})
    write_text(Path(os.devnull), "gone")
    assert Path(os.devnull).is_char_device()


def test_an_error_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "o.jsonl"
    path.write_text("old")

    def rows():
        yield {"a": 1}
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        write_rows(path, rows())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_half_a_surrogate_pair_is_written_as_json_spells_it(tmp_path: Path):
    write_rows(tmp_path / "o.jsonl", [{"a": "\ud83c"}, {"a": "🌊"}])
    lines = (tmp_path / "o.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines == ['{"a": "\\ud83c"}', '{"a": "🌊"}']
    assert json.loads(lines[0]) == {"a": "\ud83c"}


def test_a_fingerprint_is_of_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w.bin").write_bytes(bytes(1000))
        (tmp_path / name / "README.md").write_text(name)
    first = fingerprint(tmp_path / "a")
    os.utime(tmp_path / "b" / "w.bin", (0, 0))
    assert fingerprint(tmp_path / "b") == first
    (tmp_path / "b" / "w.bin").write_bytes(bytes(999) + b"x")
    assert fingerprint(tmp_path / "b") != first
    one = tmp_path / "one.gguf"
    one.write_bytes(b"1")
    before = fingerprint(one)
    one.write_bytes(b"2")
    assert fingerprint(one) != before
    # a file too large to read counts by size, time and some blocks
    monkeypatch.setattr("uniapl.files._READ_WHOLE_BYTES", 10)
    monkeypatch.setattr("uniapl.files._BLOCK_BYTES", 4)
    one.write_bytes(bytes(1000))
    os.utime(one, (0, 0))
    before = fingerprint(one)
    one.write_bytes(bytes(999) + b"x")
    os.utime(one, (0, 0))
    assert fingerprint(one) != before
