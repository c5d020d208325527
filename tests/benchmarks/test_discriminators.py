"""What the discriminators of a comparison are worth, on a comparison of tiny runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Tiny, run_here, tiny

from benchmarks import discriminators
from uniapl.training import compare, read_plan

__all__ = ["tiny"]
SETTINGS = ("likelihood:discriminator.form=likelihood", "scalar:discriminator.form=scalar")


class Knows:
    """A scorer whose verdict is known: the longer the better, or the expert's completions best."""

    def __init__(self, experts: Sequence[str]) -> None:
        self.experts = experts

    def encode(self, prompt: Any, completion: str) -> str:
        return completion

    def scores(self, texts: Sequence[str]) -> list[float]:
        if self.experts:
            return [float(text in self.experts) for text in texts]
        return [float(len(text)) for text in texts]


@pytest.fixture(scope="module")
def compared(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("discriminators") / "out"
    words = ("training.steps=2", f"evaluation.validation_prompts={tiny.task['demonstrations']}")
    plan = read_plan("likelihood=uniapl,scalar=uniapl,mix", ["0,1", "mix:0"], SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uniapl.training.comparison.run_all", run_here)
        compare(tiny.load(folder, *words), plan, folder)
    return folder


def test_every_discriminator_of_a_comparison_is_measured(
    compared: Path, capsys: pytest.CaptureFixture[str]
):
    discriminators.main([str(compared), "--prompts", "4"])
    written = json.loads((compared / "discriminators.json").read_text())
    assert {arm: len(runs) for arm, runs in written["arms"].items()} == {
        "likelihood": 2,
        "scalar": 2,
    }
    for run in (run for runs in written["arms"].values() for run in runs):
        assert list(run) == ["accuracy", "reward", "length"]
        assert 0 <= run["accuracy"] <= 1
        assert all(-1 <= value <= 1 for value in run.values())
    assert "likelihood" in capsys.readouterr().out


def test_accuracy_and_correlation_of_a_known_scorer(
    compared: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
):
    run = compared / "runs" / "likelihood-discriminator.form=likelihood-seed-0"
    lines = Path(tiny.task["demonstrations"]).read_text().splitlines()
    experts = [json.loads(line)["completion"] for line in lines]
    found = []
    for scorer in (Knows(()), Knows(experts)):
        monkeypatch.setattr(discriminators, "load_discriminator", lambda *_, it=scorer: it)
        found.append(discriminators.measure(run, 6))
    by_length, by_expert = found
    assert by_length["length"] > 0.9
    assert by_length["accuracy"] < 0.8
    assert by_expert["accuracy"] > 0.9


def test_a_comparison_without_discriminators_is_refused(tmp_path: Path):
    (tmp_path / "comparison.json").write_text('{"arms": {"mix": {"runs": ["runs/mix"]}}}')
    with pytest.raises(SystemExit, match="no run has left a discriminator"):
        discriminators.main([str(tmp_path)])
