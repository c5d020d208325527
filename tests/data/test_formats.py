"""Files as people and tools write them: right values, or one line that says where the fault is."""

import gzip
import json
import sys

import pytest

from uniapl.data.chat import Chat
from uniapl.data.readers import load_demonstrations, load_prompts
from uniapl.data.rows import Problems
from uniapl.data.sources import read_rows
from uniapl.errors import InputError


def read(path):
    found = Problems()
    rows = list(read_rows(path, found))
    found.raise_any()
    return rows


def error_of(path):
    with pytest.raises(InputError) as caught:
        read(path)
    return str(caught.value).replace(f"{path.parent}/", "")


def test_csv_as_spreadsheets_and_pandas_write_it(tmp_path, chatml):
    path = tmp_path / "data.csv"
    text = (
        '\ufeff,instruction,input,output,score\r\n0,"Say ""hi"", twice",,"hi\r\n\nhi",1\r\n'
        "1,Sum up.,A text\u2028of two lines.,So.,\r\n\r\n,,,,\r\n"
    )
    path.write_bytes(text.encode())
    rows = read(path)
    assert [(row.number, row.where.rpartition("/")[2]) for row in rows] == [
        (2, "data.csv:2"),
        (5, "data.csv:5"),
    ]
    first = {"instruction": 'Say "hi", twice', "input": None, "output": "hi\r\n\nhi", "score": "1"}
    assert rows[0].values == first
    assert rows[1].values["input"] == "A text\u2028of two lines."
    assert rows[1].values["score"] is None
    zipped = tmp_path / "data.CSV.GZ"
    zipped.write_bytes(gzip.compress(text.encode()))
    assert [row.values for row in read(zipped)] == [row.values for row in rows]
    first, second = load_demonstrations(path, Chat(chatml))
    assert (first.prompt.id, first.completion) == ("2", "hi\r\n\nhi")
    assert second.prompt.text == "Sum up.\n\nA text\u2028of two lines."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1\n1,2\n1,2,3\n", "data.csv:2: 1 cells, but the header has 2\n"
         "data.csv:4: 3 cells, but the header has 2"),
        ("a,a\n1,2\n", "data.csv: two columns are called `a`"),
        ('a,b\n1,2\n"x\n,y\n', "data.csv:3: not CSV: unexpected end of data"),
        (b"a\n\xff\n", "data.csv: not UTF-8"),
    ],
)  # fmt: skip
def test_broken_csv(tmp_path, content, message):
    path = tmp_path / "data.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert error_of(path) == message


def test_a_cell_of_a_csv_file_is_never_parsed(tmp_path, chatml):
    path = tmp_path / "data.csv"
    path.write_text('messages\n"[{""role"": ""user""}]"\n')
    with pytest.raises(InputError, match=r"`messages` must be a list of turns, got str$"):
        load_prompts(path, Chat(chatml))


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz", "data.json", "data.csv"])
def test_marks_line_ends_and_separators(tmp_path, name):
    texts = ["one\u2028line\x0cand\x85more", "2"]
    rows = [{"prompt": text} for text in texts]
    if name == "data.json":
        content = json.dumps(rows, ensure_ascii=False)
    elif name == "data.csv":
        content = "\r\n".join(["prompt", *texts])
    else:
        content = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    encoded = f"\ufeff{content}\r\n".encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(encoded) if name.endswith(".gz") else encoded)
    assert [row.values["prompt"] for row in read(path)] == texts


@pytest.mark.parametrize("is_array", [False, True])
def test_json_that_python_cannot_take(tmp_path, is_array):
    def written(*lines):
        path = tmp_path / "data.json"
        content = ",\n".join(lines) if is_array else "\n".join(lines)
        path.write_text(f"[{content}]" if is_array else content)
        return path

    good = '{"prompt": "a"}'
    where = "data.json" if is_array else "data.json:2"
    digits = written(good, '{"n": ' + "1" * 5000 + "}")
    assert error_of(digits) == f"{where}: a number of more than 4300 digits; write it as text"
    nested = written(good, '{"n": ' + "[" * 200_000 + "]" * 200_000 + "}")
    assert error_of(nested) == f"{where}: lists or objects are nested too deeply to be read"
    halves = written(good, r'{"kwargs": [{"keywords": ["\uD83c"]}]}', r'{"a\udfff": 1}')
    places = ("data.json row 2", "data.json row 3") if is_array else ("data.json:2", "data.json:3")
    assert error_of(halves).split("\n") == [
        f"{places[0]}: `kwargs` holds half a surrogate pair, \\ud83c",
        rf"{places[1]}: `a\udfff` holds half a surrogate pair, \udfff",
    ]
    whole = written(good, r'{"prompt": "\ud83c\udf0a \\ud83c"}')
    assert read(whole)[1].values == {"prompt": "🌊 \\ud83c"}


@pytest.mark.parametrize("name", ["data.jsonl", "data.json", "data.csv"])
def test_a_huge_row(tmp_path, name):
    text = "sea " * 1_000_000
    path = tmp_path / name
    path.write_text(f"prompt\n{text}\n" if name == "data.csv" else json.dumps({"prompt": text}))
    [row] = read(path)
    assert row.values["prompt"] == text


def test_empty_rows(tmp_path, chatml):
    path = tmp_path / "data.jsonl"
    path.write_text('{}\n\n{"prompt": null}\n')
    with pytest.raises(InputError) as caught:
        load_prompts(path, Chat(chatml))
    (line,) = str(caught.value).splitlines()
    assert line.endswith("(the row has: nothing) (and 1 more row)")


def test_gzipped_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [{"messages": [{"role": "user", "content": "Hi", "tool_calls": None}], "n": 1}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data.parquet")
    zipped = tmp_path / "data.parquet.gz"
    zipped.write_bytes(gzip.compress((tmp_path / "data.parquet").read_bytes()))
    assert [row.values for row in read(zipped)] == rows


def test_parquet_without_pyarrow_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "data.parquet.gz").write_bytes(gzip.compress(b"PAR1"))
    assert error_of(tmp_path / "data.parquet.gz") == (
        "data.parquet.gz: reading Parquet needs pyarrow: pip install 'uniapl[data]'"
    )


@pytest.mark.parametrize("is_array", [False, True])
def test_a_key_that_is_there_twice_is_refused(tmp_path, is_array):
    row = '{"prompt": "a", "prompt": "b"}'
    path = tmp_path / "data.json"
    path.write_text(f"[{row}]" if is_array else row)
    assert error_of(path) == f"data.json{'' if is_array else ':1'}: the key `prompt` is there twice"


def test_an_object_over_several_lines_is_one_line_of_error(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"data": [{"prompt": "a"}]}, indent=2))
    assert error_of(path).startswith("data.json:1: an object begins that is not on one line; ")
