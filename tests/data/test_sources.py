import subprocess
import sys

import pytest

from uniapl.data.sources import Problems, read_rows
from uniapl.errors import InputError


def read(source):
    found = Problems()
    rows = list(read_rows(source, found))
    found.raise_any()
    return rows


def error_of(source, folder):
    with pytest.raises(InputError) as caught:
        read(source)
    return str(caught.value).replace(f"{folder}/", "")


def test_missing_files_suggest_a_sibling(tmp_path):
    (tmp_path / "demonstrations.jsonl").touch()
    assert error_of(tmp_path / "demonstration.jsonl", tmp_path) == (
        "no such file: demonstration.jsonl; did you mean demonstrations.jsonl?"
    )
    assert error_of(tmp_path / "x.parquet", tmp_path) == "no such file: x.parquet"
    assert error_of(tmp_path / "no" / "x.jsonl", tmp_path) == (
        "no such file: no/x.jsonl (nor is there a folder no)"
    )


def test_things_that_are_no_data_files(tmp_path):
    (tmp_path / "data.xlsx").write_text("a,b\n")
    assert error_of(tmp_path / "data.xlsx", tmp_path) == (
        "data.xlsx: unknown kind of file; known are .jsonl, .ndjson, .json, .csv, .parquet, each also with .gz"
    )
    (tmp_path / "folder").mkdir()
    assert error_of(tmp_path / "folder", tmp_path) == (
        "folder is a folder; give one of the files in it"
    )
    for name, content in (
        ("empty.jsonl", "\n \n"),
        ("nothing.jsonl", ""),
        ("empty.json", "[]"),
        ("empty.csv", ""),
        ("header.csv", "prompt,completion\n"),
        ("blank.csv", "prompt,completion\n,\n\n"),
    ):
        (tmp_path / name).write_text(content)
        assert error_of(tmp_path / name, tmp_path) == f"{name} has no rows"


def test_broken_lines(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n[1]\n{"a": }\n\xff\n"x"\n')
    assert error_of(path, tmp_path).split("\n") == [
        "data.jsonl:2: a row must be a JSON object, not an array",
        "data.jsonl:3: not JSON: Expecting value at column 7",
        "data.jsonl:4: not UTF-8",
        "data.jsonl:5: a row must be a JSON object, not a string",
    ]
    path.write_bytes(b"oops\n")
    assert error_of(path, tmp_path) == "data.jsonl:1: not JSON: Expecting value at column 1"


def test_broken_arrays_and_archives(tmp_path):
    path = tmp_path / "data.json"
    path.write_text('[{"a": 1},\n {"a" 2}]')
    assert error_of(path, tmp_path) == "data.json:2: not JSON: Expecting ':' delimiter at column 7"
    path.write_text('[{"a": 1}, null]')
    assert error_of(path, tmp_path) == "data.json row 2: a row must be a JSON object, not null"
    zipped = tmp_path / "data.jsonl.gz"
    zipped.write_bytes(b'{"a": 1}\n')
    assert error_of(zipped, tmp_path).startswith(
        "data.jsonl.gz: cannot be read: Not a gzipped file"
    )


def test_broken_parquet(tmp_path):
    pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "data.parquet"
    path.write_bytes(b"PAR1 but not really")
    assert error_of(path, tmp_path).startswith("data.parquet: not a readable Parquet file: ")


def test_packages_that_are_missing_come_with_their_install_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "data.parquet").touch()
    assert error_of(tmp_path / "data.parquet", tmp_path) == (
        "data.parquet: reading Parquet needs pyarrow: pip install 'uniapl[data]'"
    )
    assert error_of("owner/name", tmp_path) == (
        "owner/name: no such file; reading it from the hub needs datasets: pip install 'uniapl[data]'"
    )


def test_paths_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data.jsonl").write_text('{"a": 1}\n')
    assert [row.values for row in read("~/data.jsonl")] == [{"a": 1}]
    assert (
        error_of("~/dat.jsonl", tmp_path) == "no such file: ~/dat.jsonl; did you mean data.jsonl?"
    )
    assert error_of("~nobody-of-this-name/data.jsonl", tmp_path) == (
        "~nobody-of-this-name/data.jsonl: cannot be read: Could not determine home directory."
    )


def test_paths_that_cannot_be_looked_at(tmp_path):
    name = "x" * 300
    assert (
        error_of(f"{tmp_path}/{name}.jsonl", tmp_path)
        == f"{name}.jsonl: cannot be read: File name too long"
    )


def test_reading_needs_no_torch():
    code = (
        "import sys, uniapl.data.readers, uniapl.data.mixture, uniapl.rewards;"
        "assert not {'torch', 'transformers', 'pyarrow', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
