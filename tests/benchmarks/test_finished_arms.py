import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import finished_arms


def run(strict: float, before: float) -> dict[str, Any]:
    name = "prompt_level_strict_acc"
    cost = {"trained_tokens": 12, "sampled_tokens": 5, "seconds": 90.0}
    return {"metrics": {name: strict, "other": 1.0}, "before": {name: before}, "cost": cost}


def test_each_run_stands_beside_what_its_own_prompts_measured_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "arms").mkdir()
    finished_arms.main([str(tmp_path)])
    assert capsys.readouterr().out == "no run has finished yet\n"
    for name, found in {
        "mix-x=1-tuning": run(0.25, 0.125),
        "mix-x=1-seed-0": run(0.5, 0.375),
    }.items():
        (tmp_path / "arms" / f"{name}.json").write_text(json.dumps(found))
    finished_arms.main([str(tmp_path)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    cells = ["5", "12", "1.5"]
    assert lines == [
        "runs that chose a setting, on the validation prompts".split(),
        ["strict", "sampled", "trained", "minutes"],
        ["before", "0.125"],
        ["mix-x=1-tuning", "0.250", *cells],
        ["finished", "runs"],
        ["strict", "sampled", "trained", "minutes"],
        ["before", "0.375"],
        ["mix-x=1-seed-0", "0.500", *cells],
    ]
    with pytest.raises(SystemExit, match="usage"):
        finished_arms.main([])
