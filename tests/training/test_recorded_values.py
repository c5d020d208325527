"""Some steps of four methods in float64, compared with recorded values: a change that no one meant shows here.

Where a change is meant, record anew and say in the commit which numbers moved and why:

    python tests/training/test_recorded_values.py
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

RECORDED = Path(__file__).with_suffix(".json")
TOLERANCE = 1e-9
NUM_STEPS = 5
CASES: dict[str, dict[str, Any]] = {
    "uniapl": {
        "objective": {"kl_coef": 0.05},
        "constraint": {"target": 0.3},
    },
    "a-grpo": {
        "rollout": {"updates_per_rollout": 2},
        "objective": {"policy_gradient": "gspo"},
    },
    "gad": {},
    "mix": {
        "rollout": {"mask_truncated": True},
        "objective": {"reward_normalisation": "signal"},
        "optimizer": {"weight_decay": 0.1, "schedule": "cosine"},
    },
}


def record(method: str) -> dict[str, Any]:
    """Return the metrics of the steps, and what is left of policy and discriminator."""
    from exact import double
    from trainers import make_trainer, metrics_of

    with double():
        trainer = make_trainer(method, discriminator={"warmup_steps": 2}, **CASES[method])
        # in the first step p_φ is the policy: its log-ratios are rounding, which no two machines share
        trainer.train_step()
        rows = metrics_of(trainer, NUM_STEPS)
        sums = {
            name: parameter.double().abs().sum().item()
            for name, parameter in trainer.players.policy.named_parameters()
        }
    return {"steps": rows, "weights": sums}


@pytest.mark.parametrize("method", CASES)
def test_the_numbers_are_those_recorded(method: str) -> None:
    expected = json.loads(RECORDED.read_text())[method]
    actual = record(method)
    assert len(actual["steps"]) == len(expected["steps"]) == NUM_STEPS
    for step, (found, row) in enumerate(zip(actual["steps"], expected["steps"], strict=True)):
        assert found.keys() == row.keys()
        for name, value in row.items():
            near = None if value is None else pytest.approx(value, rel=TOLERANCE, abs=TOLERANCE)
            assert found[name] == near, f"{name} in step {step}"
    assert actual["weights"] == pytest.approx(expected["weights"], rel=TOLERANCE)


def main() -> None:
    """Write what the code computes now."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    found = {method: record(method) for method in CASES}
    RECORDED.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
