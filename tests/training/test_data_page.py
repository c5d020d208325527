"""Every example of docs/data.md does what the page says."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_runs import Tiny

from uniapl.config import load_config
from uniapl.config.recipe import Recipe
from uniapl.data.chat import Chat
from uniapl.data.pairs import load_pairs
from uniapl.data.readers import load_demonstrations, load_prompts
from uniapl.runs.setup import Data, load_data, load_policy

PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
BLOCKS = {
    name: (kind, text)
    for kind, name, text in re.findall(
        r"^```(\w+) (\S+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE
    )
}
ROWS = [name for name, (kind, _) in BLOCKS.items() if kind in ("jsonl", "json", "csv")]
SHAPES = [name for name in ROWS if name not in ("pairs.jsonl", "tasks.jsonl")]
TURNS = (
    {"role": "system", "content": "Answer in one sentence."},
    {"role": "user", "content": "Name a sea."},
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the page's files, and go there."""
    monkeypatch.chdir(tmp_path)
    for name, (kind, text) in BLOCKS.items():
        if kind in ("jsonl", "json", "csv"):
            (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def says_what_the_page_says(file: Path) -> bool:
    demonstrations = load_demonstrations(file, _chat())
    prompts = load_prompts(file, None)
    return (
        bool(demonstrations)
        and all(d.completion == "The Baltic is a sea." for d in demonstrations)
        and all(p.messages == TURNS for p in [*prompts, *(d.prompt for d in demonstrations)])
        and all(p.columns["completion"] == "The Baltic is a sea." for p in prompts)
    )


def _chat() -> Chat:
    from tiny import tiny_tokenizer

    return Chat(tiny_tokenizer())


def loaded(name: str, tiny: Tiny) -> Data:
    """Read the data of a config whose section `data` is the page's."""
    kind, text = BLOCKS[name]
    assert kind == "yaml"
    given = "  demonstrations_per_step: 1\n  prompts_per_step: 1\n"
    Path(name).write_text(
        f"method: sft\noutput_dir: run\nmodel: {{path: {tiny.model}}}\n{text}{given}"
        "training: {steps: 1}\nrewards: []\n"
    )
    config = load_config(name)
    return load_data(Recipe.of(config), load_policy(config)[1])


def test_the_page_has_its_examples():
    assert len(SHAPES) == 7
    assert {"pairs.jsonl", "table.parquet", "columns.yaml", "two-names.yaml"} < set(BLOCKS)
    assert PAGE.count("```") == 2 * len(BLOCKS)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_says_the_same(folder: Path, name: str):
    assert says_what_the_page_says(folder / name)


def test_the_table_in_parquet(folder: Path):
    if find_spec("pyarrow") is None:
        pytest.skip("pyarrow is not installed")
    subprocess.run([sys.executable, "-c", BLOCKS["table.parquet"][1]], check=True)
    assert says_what_the_page_says(folder / "table.parquet")


def test_every_pair_says_the_same(folder: Path):
    pairs = load_pairs(folder / "pairs.jsonl", None)
    assert len(pairs) == 7
    for pair in pairs:
        assert (pair.prompt.messages, pair.chosen, pair.rejected) == (
            ({"role": "user", "content": "Name a sea."},),
            "The Baltic.",
            "No.",
        )


def test_other_names(folder: Path, tiny: Tiny):
    [demonstration] = loaded("columns.yaml", tiny).demonstrations
    assert (demonstration.prompt.messages, demonstration.completion) == (
        TURNS,
        "The Baltic is a sea.",
    )
    both = loaded("two-names.yaml", tiny).demonstrations
    assert sorted(d.prompt.id for d in both) == ["0:1", "1:1"]
    assert all(d.prompt.messages == TURNS for d in both)


def test_shares(folder: Path, tiny: Tiny):
    data = loaded("shares.yaml", tiny)
    assert sorted(d.prompt.id for d in data.demonstrations) == ["0:1", "0:2", "0:3", "1:1"]
    assert data.notes == [
        "data.demonstrations: 3 of 3 rows of query.jsonl, share 0.75",
        "data.demonstrations: 1 of 1 rows of alpaca.jsonl, share 0.25",
    ]
