"""From sample rows to the numbers of a comparison, by hand."""

from typing import Any

import pytest

from uniapl.comparing.outcomes import measures, outcomes
from uniapl.comparing.statistics import Record, difference, summarise
from uniapl.errors import InputError


def sample(strict: list[bool], tokens: int, **changes: Any) -> dict[str, Any]:
    row = {
        "completion_tokens": tokens,
        "expert_completion_tokens": 10,
        "logprob_mean": -0.25,
        "expert_logprob_mean": -0.5,
        "base_logprob_mean": None,
        "expert_base_logprob_mean": None,
        "repetition_fraction": 0.0,
        "expert_bigram_f1": 0.5,
        "finish_reason": "stop",
        "instruction_id_list": ["a"] * len(strict),
        "metrics": {"joint": 1.0},
    }
    for reading in ("strict", "loose"):
        row[f"follow_all_{reading}"] = all(strict)
        row[f"follow_instruction_list_{reading}"] = strict
    return {**row, **changes}


def test_outcomes_keep_what_the_metrics_need():
    columns = outcomes(
        [
            sample([True, False, True], 4),
            sample([True], 12, finish_reason="length", metrics={"joint": None}),
        ]
    )
    assert columns["followed_strict"] == [2, 1]
    assert columns["instructions"] == [3, 1]
    assert columns["followed_all_strict"] == [0, 1]
    assert columns["expert_nats"] == [5, 5]
    assert columns["nats"] == [1, 3]
    assert columns["is_truncated"] == [0, 1]
    assert columns["metrics.joint"] == [1, None]


def test_a_prompt_without_expert_or_instructions_lacks_their_columns():
    absent = dict.fromkeys(
        ("expert_completion_tokens", "logprob_mean", "expert_logprob_mean", "expert_bigram_f1")
    )
    row = sample([], 4, **absent)
    for name in [n for n in row if n.startswith("follow") or n == "instruction_id_list"]:
        del row[name]
    columns = outcomes([row])
    assert set(columns) == {
        *("completion_tokens", "is_truncated", "metrics.joint", "repetition_fraction")
    }
    found = measures(columns, ["joint"])
    assert set(found) == {
        *("completion_tokens_mean", "truncated_fraction", "repetition_fraction", "joint")
    }


def record(seed: int, joint: list[float | None], **changes: Any) -> Record:
    values: dict[str, Any] = {
        "seed": seed,
        "prompts": list(range(len(joint))),
        "columns": {"metrics.joint": joint},
        "own_metrics": ["joint"],
        "metrics": {"joint": 0.0, "entropy": 1.0 + seed, "absent": None},
        "cost": {"seconds": 10.0 * seed},
    }
    return Record(**{**values, **changes})


def test_an_arm_has_intervals_where_prompts_have_outcomes():
    found = summarise([record(0, [1, 1, 0, 0]), record(1, [1, 1, 1, 0])])
    assert found["seeds"] == [0, 1]
    assert found["cost"] == {"seconds": 5.0}
    joint = found["metrics"]["joint"]
    assert joint["mean"] == 0.625
    assert 0 <= joint["low"] < 0.625 < joint["high"] <= 1
    entropy = {"mean": 1.5, "low": None, "high": None, "by_seed": [1.0, 2.0]}
    assert found["metrics"]["entropy"] == entropy
    assert "absent" not in found["metrics"]


def test_a_difference_is_taken_over_shared_seeds():
    ours = [record(0, [1, 1, 1, 1]), record(1, [1, 1, 1, 1]), record(2, [0, 0, 0, 0])]
    found = difference(ours, [record(1, [0, 0, 0, 0]), record(0, [1, 0, 0, 0])])
    assert found["seeds"] == [0, 1]
    joint = found["metrics"]["joint"]
    assert joint["mean"] == pytest.approx(0.875)
    assert joint["low"] > 0


def test_what_is_not_paired_is_refused():
    with pytest.raises(InputError, match="share no seed"):
        difference([record(0, [1])], [record(1, [1])])
    with pytest.raises(InputError, match="different prompts"):
        difference([record(0, [1])], [record(0, [1], prompts=["other"])])
    with pytest.raises(InputError, match="different prompts"):
        summarise([record(0, [1]), record(1, [1], prompts=["other"])])
