"""Seconds of a step's stages."""

import pytest

from uniapl.training.stopwatch import Stopwatch


def test_a_stage_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(now)))
    clock = Stopwatch()  # 0
    for stage in ("update", "discriminator", "update"):
        with clock(stage):
            pass
    assert clock.seconds() == {
        "time/update_seconds": 2.0,
        "time/discriminator_seconds": 1.0,
        "time/step_seconds": 7.0,
    }
