"""A very small build, twice."""

from uniapl.miniature.build import ROWS, build
from uniapl.miniature.pretraining import Recipe

TINY = Recipe(num_texts=64, batch_size=16)
FEW = dict.fromkeys(ROWS, 8)


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_equal_seeds_build_equal_bytes(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    build(first, TINY, FEW, seed=3)
    build(second, TINY, FEW, seed=3)
    assert contents(first) == contents(second)
    assert len(contents(first)) == len(ROWS) + 5
    assert {path.name for path in first.iterdir()} == {"model", "data"}


def test_a_build_replaces_what_was_there(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "stale.txt").write_text("old")
    (tmp_path / "kept.txt").write_text("mine")
    build(tmp_path, TINY, FEW)
    assert not (tmp_path / "model" / "stale.txt").exists()
    assert (tmp_path / "kept.txt").read_text() == "mine"
