"""Two ranks that share a step's micro-batches, decoding and rewards are one process, to the last digits of float64."""

import json
from pathlib import Path
from typing import Any

import pytest
from launches import TESTS, launch
from rank_cases import CASES, FAULTS, SHARDED

EVERY_CASE = (*CASES, *(f"{name}, full" for name in SHARDED))

EXACT = 1e-12
"""Of weights and metrics after three steps; sums are added in another order."""
SINGLE = 1e-5
"""The same where the adapter keeps its backbone in float32."""
PLAIN = 1e-5
"""What a planted fault exceeds by far."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("ranks") / "found.json"
    done = launch(2, str(TESTS / "rank_cases.py"), str(output))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(output.read_text())


@pytest.mark.parametrize("name", EVERY_CASE)
def test_two_ranks_are_one_process(found: dict[str, Any], name: str):
    case, limit = found[name], SINGLE if name.startswith("lora") else EXACT
    assert case["weights"] <= limit
    assert case["metrics"] <= limit, case["worst_metric"]
    assert case["same_tokens"]
    assert case["ranks_agree"], "bit for bit, or the replicas would drift apart"
    assert case["num_tokens"] > 0 or name.split(",")[0] == "sft"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(found: dict[str, Any], fault: str):
    assert found[fault]["weights"] > PLAIN


@pytest.mark.long
def test_three_ranks_are_one_process(tmp_path: Path):
    output = tmp_path / "found.json"
    done = launch(3, str(TESTS / "rank_cases.py"), str(output))
    assert done.returncode == 0, done.stderr[-3000:]
    for name in EVERY_CASE:
        test_two_ranks_are_one_process(json.loads(output.read_text()), name)
