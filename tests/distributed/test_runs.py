"""Whole runs of two ranks: one folder, one voice, the same end after a stop; errors that all of them hear of."""

import json
from pathlib import Path

import pytest
import torch
from launches import TESTS, launch
from rank_runs import KINDS
from safetensors.torch import load_file
from tiny_runs import Tiny, assert_same_run, repeatable
from transformers import AutoModelForCausalLM

from uniapl.runs.checkpoint import checkpoint_steps

SINGLE = 1e-4
"""Of float32 weights after four steps."""


@pytest.fixture(scope="module")
def runs(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    done = launch(2, str(TESTS / "rank_runs.py"), str(tiny.config), str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_of_two_ranks_goes_on_to_the_same_end(runs: Path, kind: str):
    straight, stopped = runs / f"{kind} straight", runs / f"{kind} stopped"
    assert_same_run(stopped, straight)
    assert checkpoint_steps(straight / "checkpoints") == [2, 4]


@pytest.mark.parametrize("kind", ["none", "full"])
def test_a_run_of_two_ranks_is_that_of_one(tiny: Tiny, runs: Path, tmp_path: Path, kind: str):
    alone = tiny.train(tmp_path / "run")
    for own, row in zip(repeatable(runs / f"{kind} straight"), repeatable(alone), strict=True):
        assert own.keys() == row.keys()
        for name, value in row.items():
            assert own[name] == pytest.approx(value, abs=SINGLE), name
    weights, expected = (
        load_file(run / "policy" / "model.safetensors")
        for run in (runs / f"{kind} straight", alone)
    )
    assert weights.keys() == expected.keys(), "a tied head is written once"
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=SINGLE)
    AutoModelForCausalLM.from_pretrained(runs / f"{kind} straight" / "policy")


def test_all_ranks_raise_what_one_has_met_and_one_of_them_says_it(runs: Path):
    first, second = (json.loads((runs / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first.keys() == second.keys() == {"raising", "missing"}
    kind, line, is_silent = first["raising"]
    assert kind == "TrainingError"
    assert line.startswith("reward raising raised ValueError: no such thing")
    assert second["raising"] == [kind, line, False]
    assert is_silent
    assert not (runs / "raising" / "policy").exists()
    assert first["missing"][:2] == second["missing"][:2]
    assert {first["missing"][2], second["missing"][2]} == {True, False}
