"""A comparison on the terminal: what each number is, over how much, and which differences are findings."""

from typing import Any

import pytest
from rich.console import Console

from uniapl.comparing.table import comparison_tables


def numbers(mean: float, low: float, high: float) -> dict[str, Any]:
    return {"mean": mean, "low": low, "high": high}


def result(shared_seeds: int, low: float = 0.05) -> dict[str, Any]:
    seeds = list(range(shared_seeds))
    cost = {"trained_tokens": 10.0, "sampled_tokens": 5.0, "seconds": 1.0}

    def arm(accuracy: float, w1: float, marks: float) -> dict[str, Any]:
        metrics = {
            "prompt_level_strict_acc": numbers(accuracy, accuracy - 0.1, accuracy + 0.1),
            "completion_tokens_w1": numbers(w1, w1 - 1, w1 + 1),
            "marks": numbers(marks, marks - 1, marks + 1),
            "holes": numbers(0.2, 0.1, 0.3),
        }
        return {"seeds": seeds, "setting": [], "metrics": metrics, "cost": cost}

    gaps = {
        "prompt_level_strict_acc": numbers(0.1, low, 0.15),
        "completion_tokens_w1": numbers(-2.0, -3.0, -1.0),
        "marks": numbers(1.0, -1.0, 3.0),
    }
    return {
        "baseline": "grpo",
        "best_metric": "prompt_level_strict_acc",
        "own_metrics": ["marks", "holes"],
        "num_prompts": 512,
        "definitions": {"holes": "Share that uses the hole; lower is better.", "marks": "Marks."},
        "before": {"prompt_level_strict_acc": 0.1},
        "expert": {},
        "arms": {"grpo": arm(0.4, 5.0, 3.0), "mix": arm(0.5, 3.0, 4.0)},
        "differences": {"mix": {"seeds": seeds, "metrics": gaps}},
    }


def shown(content: dict[str, Any]) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        for table in comparison_tables(content):
            console.print(table)
    return capture.get()


def test_every_metric_says_direction_unit_prompts_and_seeds():
    text = shown(result(3))
    assert "\nprompt_level_strict_acc (higher is better, 512 prompts)" in text
    assert "(tokens, lower is better, 512 prompts)" in text
    assert "(lower is better, 512 prompts)" in text  # of one's own, by its docstring
    assert "\nmarks (512 prompts)" in text  # no better side is known
    (row,) = [line for line in text.splitlines() if line.startswith("mix") and "+0.100" in line]
    assert row.split()[:3] == ["mix", "3", "0.500"]


@pytest.mark.parametrize(
    ("seeds", "low", "stars"), [(3, 0.05, 2), (5, 0.05, 2), (3, -0.01, 1), (2, 0.05, 0), (1, 0.05, 0)]
)  # fmt: skip
def test_only_seeds_enough_and_an_interval_beyond_zero_carry_a_star(
    seeds: int, low: float, stars: int
):
    text = shown(result(seeds, low))
    assert text.count("* [") == stars
    assert "3 shared seeds or more, and the interval" in " ".join(text.split())
