"""What the discriminators of a comparison are worth, on a comparison of tiny runs."""

import json
from pathlib import Path

import pytest
import torch
from tiny_runs import Tiny, run_here, tiny

from benchmarks import discriminators
from uniapl.comparing import compare, read_plan

__all__ = ["tiny"]
SETTINGS = ("likelihood:discriminator.form=likelihood", "scalar:discriminator.form=scalar")


@pytest.fixture(scope="module")
def compared(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("discriminators") / "out"
    words = ("training.steps=2", f"evaluation.validation_prompts={tiny.task['demonstrations']}")
    plan = read_plan("likelihood=uniapl,scalar=uniapl,mix", ["0,1", "mix:0"], SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uniapl.comparing.comparison.run_all", run_here)
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
        assert list(run) == ["accuracy", "counted", "with reward", "with length"]
        assert 0 <= run["accuracy"] <= 1
        assert all(-1 <= value <= 1 for value in run.values() if value is not None)
    assert "likelihood" in capsys.readouterr().out


def judged(counts: list[list[bool]]) -> discriminators.Judged:
    rollouts = torch.tensor([[0.0, 2.0, 1.0], [5.0, 3.0, 9.0]])
    return discriminators.Judged(torch.tensor([1.0, 4.0]), rollouts, torch.tensor(counts))


def test_accuracy_and_correlation_by_hand():
    everything = judged([[True] * 3, [True] * 3])
    # against its own group's expert: right, wrong, tie; wrong, right, wrong
    assert everything.accuracy() == pytest.approx(2.5 / 6)
    some = judged([[True, True, False], [False, True, False]])
    assert some.accuracy() == pytest.approx(2 / 3)
    # groups have means of their own: (-1, 1, 0) with (-1, 0, 1), and (-2/3, -8/3, 10/3) with (-1, 0, 1)
    found = everything.correlation([10.0, 11.0, 12.0, 0.0, 1.0, 2.0])
    assert found == pytest.approx((1 + 4) / ((2 + 168 / 9) * 4) ** 0.5)
    # a value that is missing leaves its rollout out of the group's mean
    assert some.correlation([1.0, 3.0, 9.0, None, None, None]) == pytest.approx(1.0)


def test_what_cannot_be_computed_is_none():
    nothing = judged([[False] * 3, [False] * 3])
    assert nothing.accuracy() is None
    assert nothing.correlation([1.0] * 6) is None
    assert judged([[True] * 3, [True] * 3]).correlation([7.0] * 3 + [8.0] * 3) is None


def test_a_comparison_without_discriminators_is_refused(tmp_path: Path):
    with pytest.raises(SystemExit, match="is not there"):
        discriminators.main([str(tmp_path)])
    (tmp_path / "comparison.json").write_text('{"arms": {"mix": {"runs": ["runs/mix"]}}}')
    with pytest.raises(SystemExit, match="no run has left a discriminator"):
        discriminators.main([str(tmp_path)])
