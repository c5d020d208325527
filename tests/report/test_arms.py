from pathlib import Path

import pytest

from uniapl.report import arms as arms_module
from uniapl.report.arms import Arm, curve, group_arms, metric_names
from uniapl.report.reading import Run


def a_run(name="run", metrics=None, steps=None, **config) -> Run:
    metrics = metrics or {}
    return Run(
        folder=Path("runs") / name,
        config={"method": "uniapl", "seed": 0, **config},
        environment={},
        definitions={},
        steps=steps or [1, 2],
        metrics=metrics,
        evaluations=[],
        rollouts=[],
        num_rollouts=0,
    )


def test_seeds_are_one_arm_and_methods_are_many():
    runs = [
        a_run(method="mix", seed=0),
        a_run(method="uniapl", seed=0),
        a_run(method="mix", seed=1, output_dir="elsewhere"),
    ]
    arms = group_arms(runs)
    assert [(arm.name, arm.seeds) for arm in arms] == [("mix", [0, 1]), ("uniapl", [0])]


def test_arms_of_one_method_are_named_by_what_differs():
    runs = [
        a_run(objective={"adversarial_weight": 0.1}, model={"path": "hub/small"}),
        a_run(objective={"adversarial_weight": 0.3}, model={"path": "hub/small"}),
    ]
    names = [arm.name for arm in group_arms(runs)]
    assert names == ["uniapl (adversarial_weight 0.1)", "uniapl (adversarial_weight 0.3)"]


def test_arms_that_differ_in_much_are_named_by_folder():
    runs = [a_run("left", a=1, b=1, c=1), a_run("right", a=2, b=2, c=2)]
    assert [arm.name for arm in group_arms(runs)] == ["uniapl (left)", "uniapl (right)"]


def test_equal_names_are_told_apart():
    runs = [a_run("left/run", a=1, b=1, c=1), a_run("right/run", a=2, b=2, c=2)]
    assert [arm.name for arm in group_arms(runs)] == ["uniapl (run)", "uniapl (run) #2"]


def test_band_is_mean_least_and_greatest_over_seeds():
    arm = Arm(
        "mix",
        (
            a_run(metrics={"reward/mean": [1.0, None, 4.0]}, steps=[1, 2, 3]),
            a_run(metrics={"reward/mean": [3.0, None]}, steps=[1, 2]),
        ),
    )
    found = curve(arm, "reward/mean")
    assert found is not None
    assert found.steps == [1, 2, 3]
    assert found.mean == [2.0, None, 4.0]  # (1 + 3) / 2, nothing, the longer run alone
    assert found.low == [1.0, None, 4.0]
    assert found.high == [3.0, None, 4.0]


def test_metric_without_values_has_no_curve():
    run = a_run(metrics={"reward/mean": [1.0, 2.0], "discriminator/loss": [None, None]})
    assert curve(Arm("sft", (run,)), "discriminator/loss") is None
    assert curve(Arm("sft", (run,)), "absent") is None
    assert metric_names([run]) == ["reward/mean"]


def test_long_curve_is_averaged_over_neighbours(monkeypatch):
    monkeypatch.setattr(arms_module, "MAX_POINTS", 2)
    run = a_run(metrics={"m": [1.0, 2.0, 3.0, None, 5.0]}, steps=[1, 2, 3, 4, 5])
    found = curve(Arm("sft", (run,)), "m")
    assert found is not None
    assert found.steps == [3, 5]  # blocks of ceil(5 / 2) = 3 steps
    assert found.mean == [pytest.approx(2.0), pytest.approx(5.0)]
