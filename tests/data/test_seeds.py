import gzip
import json
from pathlib import Path

import pytest

from uniapl import cli
from uniapl.data.seeds import read_seeds, read_texts
from uniapl.errors import InputError


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_seeds_from_the_columns_the_field_uses(tmp_path: Path):
    file = write(
        tmp_path / "seeds.jsonl",
        {"key": 7, "prompt": " Why? ", "completion": "So."},
        {"instruction": "Name a fish.", "context": "", "output": "Cod."},
        {"id": "q", "question": "Who?"},
        {"messages": [{"role": "system", "content": "Hm."}, {"role": "user", "content": "When?"},
                      {"role": "assistant", "content": "Now."}]},
        {"instruction": "Sum it up.", "input": "A long text."},
        {"prompt": "\n"},
        {"prompt": "word " * 201},
    )  # fmt: skip
    seeds = read_seeds(file)
    assert [(p.id, p.text) for p in seeds.prompts] == [
        ("7", "Why?"),
        ("2", "Name a fish."),
        ("q", "Who?"),
        ("4", "When?"),
    ]
    completions = [p.columns.get("completion") for p in seeds.prompts]
    assert completions == ["So.", "Cod.", None, "Now."]
    assert seeds.dropped == {"needs a context": 1, "blank": 1, "longer than 200 words": 1}
    assert len(read_texts(file)) == 7


def test_a_line_of_a_text_file_is_a_seed(tmp_path: Path):
    file = tmp_path / "seeds.txt"
    file.write_text("Why?\n\nName a fish.\n")
    assert [(p.id, p.text) for p in read_seeds(file).prompts] == [
        ("1", "Why?"),
        ("3", "Name a fish."),
    ]
    with pytest.raises(InputError, match="no such file"):
        read_seeds(tmp_path / "none.txt")


def test_only_line_breaks_end_a_seed(tmp_path: Path):
    texts = ["Write about\u2028spring and\x0crain", "Tell me\x85 about trains"]
    file = tmp_path / "seeds.txt.gz"
    file.write_bytes(gzip.compress("\r\n\r\n".join(["\ufeff" + texts[0], texts[1]]).encode()))
    assert [(p.id, p.text) for p in read_seeds(file).prompts] == [("1", texts[0]), ("3", texts[1])]


def test_seeds_of_conversations(tmp_path: Path):
    part = {"type": "text", "text": "When?"}
    image = {"type": "image_url"}
    file = write(
        tmp_path / "s.jsonl",
        {"messages": [{"role": "user", "content": [part]}, {"role": "tool", "content": "3"}]},
        {"conversations": [{"from": "human", "value": "When?"}, {"from": "gpt", "value": "Now."}]},
        {"query": "When?", "response": "Now."},
        {"prompt": [{"role": "user", "content": "When?"}], "completion": [
            {"role": "assistant", "content": [{"type": "text", "text": "Now."}]}]},
    )  # fmt: skip
    seeds = read_seeds(file).prompts
    assert [seed.text for seed in seeds] == ["When?"] * 4
    assert [seed.columns.get("completion") for seed in seeds] == [None, "Now.", "Now.", "Now."]
    bad = write(tmp_path / "b.jsonl", {"messages": [{"role": "user", "content": [part, image]}]})
    with pytest.raises(InputError, match=r":1: `the first user turn` holds a part of type 'image_"):
        read_seeds(bad)


def test_a_seeds_number_is_never_anothers_key(tmp_path: Path):
    file = write(tmp_path / "s.jsonl", {"prompt": "Why?"}, {"id": 1, "prompt": "Who?"})
    assert [seed.id for seed in read_seeds(file).prompts] == ["row 1", "1"]
    broken = write(tmp_path / "b.jsonl", {"id": [], "prompt": "Why?"})
    with pytest.raises(InputError) as caught:
        read_seeds(broken)
    assert str(caught.value) == f"{broken}:1: `id` must be a string or a whole number, got []"


def test_half_a_surrogate_pair_is_refused_where_it_is_read(tmp_path: Path):
    file = tmp_path / "s.jsonl"
    file.write_text(r'{"prompt": "Why \ud83c?"}'.replace("\\\\", "\\") + "\n")
    with pytest.raises(InputError, match=r":1: `prompt` holds half a surrogate pair, \\ud83c$"):
        read_seeds(file)


def test_rows_without_a_prompt_are_named(tmp_path: Path):
    file = write(tmp_path / "s.jsonl", {"prompt": "Why?"}, {"title": "x"}, {"messages": []})
    with pytest.raises(InputError, match=r":2: no prompt: .*the row has: title"):
        read_seeds(file)


def test_the_command_writes_training_and_held_out_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    texts = [f"What is number {number} about?" for number in range(60)]
    source = write(tmp_path / "s.jsonl", *({"prompt": text} for text in texts))
    exclude = write(tmp_path / "e.jsonl", {"prompt": "Say what is number 3 about, please"})
    output, held_out = tmp_path / "new/p.jsonl", tmp_path / "h.jsonl"
    words = ["prompts", str(source), "--output", str(output), "--held-out", str(held_out)]
    assert cli.main([*words, "--exclude", str(exclude), "--max-instructions", "2"]) == 0
    rows = [
        json.loads(line) for file in (output, held_out) for line in file.read_text().splitlines()
    ]
    assert len(rows) == 59
    assert all(1 <= len(row["instruction_id_list"]) == len(row["kwargs"]) <= 2 for row in rows)
    printed = capsys.readouterr().out
    assert "1 dropped: overlaps with an excluded text" in printed
    assert f"wrote {output}" in printed
    first = output.read_bytes()
    assert cli.main([*words, "--exclude", str(exclude), "--max-instructions", "2"]) == 0
    assert output.read_bytes() == first
    assert cli.main(["prompts", str(source), "--output", "x", "--max-instructions", "9"]) == 2


def test_a_context_joins_its_prompt_on_request(tmp_path: Path):
    file = write(
        tmp_path / "s.jsonl",
        {"instruction": "Sum it up.", "input": "A long text.", "output": "Text."},
        {"id": "t", "instruction": "Go on.", "instances": [{"input": "One", "output": "two"}]},
    )
    assert read_seeds(file).dropped == {"needs a context": 2}
    seeds = read_seeds(file, joins_context=True).prompts
    assert [p.text for p in seeds] == ["Sum it up.\n\nA long text.", "Go on.\n\nOne"]
    assert [p.columns["completion"] for p in seeds] == ["Text.", "two"]


def test_the_command_makes_demonstrations(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    answer = "Fish are fast and some of them are bright. " * 3
    source = write(
        tmp_path / "s.jsonl", {"prompt": "Why fish?", "completion": answer}, {"prompt": "So?"}
    )
    output = tmp_path / "d.jsonl"
    assert cli.main(["prompts", str(source), "--from-completions", "--output", str(output)]) == 0
    (row,) = (json.loads(line) for line in output.read_text().splitlines())
    assert row["completion"] == answer
    assert row["prompt"].startswith("Why fish?")
    assert "1 dropped: no completion" in capsys.readouterr().out
    words = ["prompts", str(source), "--from-completions", "--output", str(output)]
    assert cli.main([*words, "--held-out", "x.jsonl"]) == 2


def test_only_a_line_break_ends_a_line_of_text(tmp_path):
    odd = "Write about spring\u2028and\x0crain\x0b in\x85 the\x1c hills\u2029"
    (tmp_path / "s.txt").write_bytes(f"{odd}\r\nTell me\n\nMore\rLast".encode())
    seeds = read_seeds(tmp_path / "s.txt")
    assert [seed.text for seed in seeds.prompts] == [odd.strip(), "Tell me", "More", "Last"]
    assert [seed.id for seed in seeds.prompts] == ["1", "2", "4", "5"]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why \ud83c?"},
        {"prompt": "Why?", "completion": "So \ud83c."},
        {"messages": [{"role": "user", "content": "\ud83c"}]},
    ],
)
def test_text_that_no_file_can_hold_is_refused(tmp_path, row):
    (tmp_path / "s.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=r"s.jsonl:1: .* holds half a surrogate pair"):
        read_seeds(tmp_path / "s.jsonl")


def test_columns_are_called_as_the_user_says(tmp_path: Path):
    file = write(
        tmp_path / "seeds.jsonl",
        {"task": "Why?", "prompt": "not this", "reply": "So."},
        {"task": "Who?", "reply": "You."},
    )
    seeds = read_seeds(file, columns={"prompt": "task", "completion": "reply"})
    assert [p.text for p in seeds.prompts] == ["Why?", "Who?"]
    assert [p.columns["completion"] for p in seeds.prompts] == ["So.", "You."]
    # a completion may be missing, a prompt may not
    assert read_seeds(file, columns={"prompt": "task", "completion": "none"}).prompts
    with pytest.raises(InputError) as caught:
        read_seeds(file, columns={"prompt": "tusk"})
    said = "no column `tusk`, which `columns` names for `prompt`; the nearest is `task`"
    assert str(caught.value) == f"{file}: {said}"
