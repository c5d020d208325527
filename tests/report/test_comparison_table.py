"""The table of a comparison: what it says is sure, and the page that shows it."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uniapl.errors import InputError
from uniapl.report import build_report
from uniapl.report.comparison import compared_metrics, comparison_table, read_comparison
from uniapl.report.strips import difference_strip


def value(mean: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"mean": mean, "low": low, "high": high, "by_seed": [mean, mean]}


COST = {"trained_tokens": 12345.0, "sampled_tokens": 0.0, "seconds": 61.5}
COMPARISON: dict[str, Any] = {
    "format": 1,
    "baseline": "grpo",
    "num_prompts": 512,
    "definitions": {"joint": "All of it."},
    "arms": {
        "mix": {
            "setting": ["objective.sft_weight=0.3"],
            "seeds": [0, 1],
            "metrics": {
                "prompt_level_strict_acc": value(0.5, 0.45, 0.55),
                "completion_tokens_w1": value(2.0, 1.5, 2.5),
                "joint": value(0.4, 0.35, 0.45),
                "distinct_1": value(0.3, None, None),
            },
            "cost": COST,
            "runs": ["runs/mix"],
        },
        "grpo": {
            "setting": [],
            "seeds": [0],
            "metrics": {
                "prompt_level_strict_acc": value(0.4, 0.35, 0.45),
                "completion_tokens_w1": value(6.0, 5.0, 7.0),
                "joint": value(0.39, 0.34, 0.44),
                "distinct_1": value(0.2, None, None),
            },
            "cost": COST,
            "runs": ["runs/grpo"],
        },
    },
    "differences": {
        "mix": {
            "seeds": [0],
            "metrics": {
                "prompt_level_strict_acc": {"mean": 0.1, "low": 0.05, "high": 0.15},
                "completion_tokens_w1": {"mean": -4.0, "low": -5.0, "high": -3.0},
                "joint": {"mean": 0.01, "low": -0.02, "high": 0.04},
            },
        }
    },
}


def test_the_table_says_what_is_sure():
    table = comparison_table(COMPARISON)
    assert [m.name for m in table["metrics"]] == [
        *("prompt_level_strict_acc", "joint", "completion_tokens_w1")
    ]
    grpo, mix = table["rows"]
    assert (grpo["name"], mix["name"]) == ("grpo", "mix")
    assert [c["gap"] for c in grpo["cells"]] == ["", "", ""]
    strict, joint, w1 = mix["cells"]
    assert (strict["text"], strict["interval"]) == ("50.0", "45.0 to 55.0")
    assert (strict["gap"], strict["gap_interval"]) == ("+10.0", "+5.0 to +15.0")
    assert (w1["gap"], w1["gap_interval"]) == ("−4.0", "−5.0 to −3.0")
    assert (joint["gap"], joint["gap_interval"]) == ("+1.0", "−2.0 to +4.0")
    # one seed carries no verdict, whatever the interval says
    assert [c["verdict"] for c in mix["cells"]] == ["cannot tell"] * 3
    assert mix["setting"] == "objective.sft_weight=0.3"
    assert [cost.replace("\u202f", "") for cost in mix["cost"]] == ["12345", "0", "62"]


def with_seeds(seeds: list[int]) -> dict[str, Any]:
    changed = copy.deepcopy(COMPARISON)
    changed["differences"]["mix"]["seeds"] = seeds
    return changed


def test_better_needs_an_interval_without_0_and_three_seeds():
    _, mix = comparison_table(with_seeds([0, 1, 2]))["rows"]
    # shorter distances are better; an interval that holds 0 says nothing
    assert [c["verdict"] for c in mix["cells"]] == ["better", "cannot tell", "better"]
    _, mix = comparison_table(with_seeds([0, 1]))["rows"]
    assert [c["verdict"] for c in mix["cells"]] == ["cannot tell"] * 3


def test_the_forest_places_differences_on_a_track_with_0():
    metrics = compared_metrics(with_seeds([0, 1, 2]) | {"best_metric": "joint"})
    assert metrics[0].name == "joint"
    strips = [difference_strip(with_seeds([0, 1, 2]), metric, {"mix": 1}) for metric in metrics]
    joint, strict, w1 = (strip["rows"][0] for strip in strips if strip)
    assert (joint["verdict"], strict["verdict"], w1["verdict"]) == (
        *("cannot tell", "better", "better"),
    )
    assert (strict["text"], strict["interval"]) == ("+10.0 points", "+5.0 to +15.0")
    assert (w1["text"], w1["interval"]) == ("−4.0 tokens", "−5.0 to −3.0")
    assert (joint["label"], joint["note"], joint["arm"]) == ("mix", "3 seeds", 1)
    for strip in strips:
        assert strip is not None
        zero, row = strip["references"][0]["x"], strip["rows"][0]
        left, right = row["bar"]["left"], row["bar"]["left"] + row["bar"]["width"]
        assert (left <= zero <= right) == (row["verdict"] == "cannot tell")
        assert left < row["marks"][0]["x"] < right
    few = difference_strip(COMPARISON, metrics[1], {})
    assert few is not None
    assert few["rows"][0]["verdict"] == "cannot tell from 1 seed"


@pytest.fixture
def compared(tmp_path: Path, make_run: Callable[..., Path]) -> Path:
    folder = tmp_path / "compared"
    (folder / "runs").mkdir(parents=True)
    for method in ("mix", "grpo"):
        make_run(method, method=method).rename(folder / "runs" / method)
    (folder / "comparison.json").write_text(json.dumps(COMPARISON))
    return folder


def test_the_folder_of_a_comparison_is_a_page_of_its_runs(compared: Path):
    page = build_report([compared])
    assert page == compared / "report" / "index.html"
    text = page.read_text(encoding="utf-8")
    assert "Differences to grpo" in text
    assert "+5.0 to +15.0" in text
    assert "512 test prompts" in text
    # with other runs beside it the page is about more than the comparison
    mixed = build_report([compared, compared / "runs" / "mix"], compared / "both.html")
    assert "Differences to grpo" not in mixed.read_text(encoding="utf-8")


def test_a_comparison_that_cannot_be_shown_is_refused(compared: Path):
    (compared / "runs" / "mix").rename(compared / "elsewhere")
    with pytest.raises(InputError, match=r"mix: a run of .* is missing"):
        build_report([compared])
    (compared / "comparison.json").write_text('{"format": 2}')
    with pytest.raises(InputError, match="format 2, this version reads up to 1"):
        read_comparison(compared)
    (compared / "comparison.json").write_text("[]")
    with pytest.raises(InputError, match="is no comparison"):
        read_comparison(compared)
    assert read_comparison(compared / "runs") is None
