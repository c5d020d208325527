"""What a run says before its first step."""

from pathlib import Path

import pytest
from tiny_runs import Tiny


def test_a_term_that_never_acts_is_named_before_the_first_step(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tiny.train(tmp_path / "run", "training.steps=1", "evaluation.limit=1")
    lines = capsys.readouterr().err.splitlines()
    (place,) = [i for i, line in enumerate(lines) if " WARNING λ " in line]
    assert lines[place].endswith(
        "is 0 in the run's only step: discriminator.warmup_steps is 1, and λ acts after it; "
        "the run trains as mix-both does"
    )
    assert place < next(i for i, line in enumerate(lines) if " INFO step " in line)
