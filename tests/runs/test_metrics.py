"""The metrics file: the rows that a run means to leave, and no others."""

import json
import math
from pathlib import Path

import pytest
import torch

from uniapl.runs.metrics import (
    DEFINITIONS,
    MetricsFile,
    definitions,
    logged_definition,
    peak_gib,
    read_rows,
)

NAMES = ("objective/loss", "reward/mean")


def write(path: Path, *lines: str) -> None:
    path.write_text("".join(lines))


def test_a_row_holds_every_name_and_no_nan(tmp_path: Path):
    file = MetricsFile(tmp_path / "metrics.jsonl", NAMES, 0)
    file.write(1, {"objective/loss": 0.1})
    file.write(2, {"objective/loss": math.nan, "reward/mean": -math.inf})
    file.sync()
    file.close()
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 1, "objective/loss": 0.1, "reward/mean": null}\n'
        '{"step": 2, "objective/loss": null, "reward/mean": null}\n'
    )


def test_a_row_can_be_read_as_soon_as_it_is_written(tmp_path: Path):
    file = MetricsFile(tmp_path / "metrics.jsonl", NAMES, 0)
    file.write(1, {})
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1]
    file.close()


def test_an_undefined_metric_is_a_bug(tmp_path: Path):
    file = MetricsFile(tmp_path / "metrics.jsonl", NAMES, 0)
    with pytest.raises(AssertionError, match=r"\['objective/los'\]"):
        file.write(1, {"objective/los": 1.0})
    file.close()


@pytest.mark.parametrize(
    "tail",
    [
        '{"step": 3, "objective/loss": 0.3, "reward/mean": 3}\n',  # past the checkpoint
        '{"step": 3, "objec',
        '{"step": 3, "objec\n{"step": 4, "objective/loss": 0.3, "reward/mean": 3}\n',
        "\0\0\0\0\0",  # what a power failure may leave
        "\n",
        "",
    ],
)
def test_rows_past_the_checkpoint_and_torn_lines_are_cut(tmp_path: Path, tail: str):
    path = tmp_path / "metrics.jsonl"
    kept = [f'{{"step": {step}, "objective/loss": 0.1, "reward/mean": null}}\n' for step in (1, 2)]
    write(path, *kept, tail)
    file = MetricsFile(path, NAMES, 2)
    assert path.read_text() == "".join(kept)
    file.write(3, {"reward/mean": 1 / 3})
    file.close()
    lines = path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert json.loads(lines[2])["reward/mean"] == 1 / 3


def test_a_last_row_without_its_line_break_is_kept_apart(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    write(path, '{"step": 1}')
    file = MetricsFile(path, (), 1)
    file.write(2, {})
    file.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_run_that_starts_drops_all_rows(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    write(path, '{"step": 1}\n')
    MetricsFile(path, (), 0).close()
    assert path.read_text() == ""
    assert read_rows(tmp_path / "nowhere") == []


def test_rewards_have_meanings_of_their_own():
    meanings = definitions(["instructions", "brevity"])
    assert meanings.keys() - DEFINITIONS.keys() == {"reward/instructions", "reward/brevity"}
    assert "brevity" in meanings["reward/brevity"]
    assert all("\n" not in text and text.endswith(".") for text in meanings.values())
    assert all(name.count("/") == 1 for name in meanings)


def test_peak_memory_of_the_process():
    before = peak_gib(torch.device("cpu"))
    assert 0.01 < before < 1000
    block = bytearray(b"x") * (64 << 20)
    assert peak_gib(torch.device("cpu")) >= before
    del block


def test_what_a_reward_logs_becomes_a_key_when_it_first_comes(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, ("reward/mean", "reward/f"), 0)
    assert file.write(1, {"reward/f": 1.0}) == {"step": 1, "reward/mean": None, "reward/f": 1.0}
    assert file.logged == []
    assert file.write(2, {"reward/f/accuracy": 0.5})["reward/f/accuracy"] == 0.5
    assert file.write(3, {"reward/f/accuracy": math.nan})["reward/f/accuracy"] is None
    file.write(4, {"reward/f": 1.0})
    assert file.logged == ["reward/f/accuracy"]
    with pytest.raises(AssertionError, match=r"\['reward/g/accuracy'\]"):
        file.write(5, {"reward/g/accuracy": 0.5})
    file.close()
    rows = read_rows(path)
    assert "reward/f/accuracy" not in rows[0]
    assert [row["reward/f/accuracy"] for row in rows[1:]] == [0.5, None, None]
    # a run that goes on knows it
    resumed = MetricsFile(path, ("reward/mean", "reward/f"), 3)
    assert resumed.logged == ["reward/f/accuracy"]
    resumed.write(4, {"reward/f/accuracy": 0.25})
    assert resumed.logged == ["reward/f/accuracy"]
    resumed.close()
    assert logged_definition("reward/f/accuracy") == (
        "accuracy, as f logs it: the mean over its calls."
    )
    assert logged_definition("f/accuracy") == logged_definition("reward/f/accuracy")
