"""What is known of a metric stands once, and the run folder says it in words."""

import pytest

from uniapl.known_metrics import KNOWN, definition, direction_of, is_sure, read_definition
from uniapl.runs.metrics import DEFINITIONS, STEP_METRICS


def test_a_definition_says_unit_and_direction():
    assert KNOWN["completion_tokens_w1"].definition == (
        "Wasserstein-1 distance of the two length distributions; 0 = the same. In tokens; lower is better."
    )
    assert KNOWN["prompt_level_strict_acc"].definition.endswith(
        "followed. A fraction; higher is better."
    )
    assert KNOWN["completion_tokens_mean"].definition.endswith("end of turn. In tokens.")
    assert KNOWN["logprob_ks"].definition.endswith("From 0 to 1; lower is better.")
    assert KNOWN["margin_mean"].definition.endswith("mean over pairs. Higher is better.")
    for known in KNOWN.values():
        assert known.meaning.endswith((".", "?"))
        assert "better" not in known.meaning


def test_unit_and_direction_are_read_back_from_a_definition():
    """Of evaluations and of steps: each is written once, and whoever has the run folder knows it."""
    for known in KNOWN.values():
        assert read_definition(known.definition) == (known.unit, known.direction)
    for name, step_metric in STEP_METRICS.items():
        assert read_definition(DEFINITIONS[name]) == (step_metric.unit, step_metric.direction)
        assert "better" not in step_metric.meaning
    for text in ("", "Tokens. In doubt 0.", "Seconds; lower is better.", "As f logs it: the mean."):
        assert read_definition(text) == ("", "neither")
    with pytest.raises(KeyError):
        definition("Length.", "miles", "neither")


@pytest.mark.parametrize(
    ("name", "meaning", "is_fraction", "direction"),
    [
        ("expert_nll", "whatever; higher is better", True, "lower"),
        ("own", "", True, "higher"),
        ("own", "", False, "neither"),
        ("own", "Holes used; lower is better.", True, "lower"),
        ("own", "Seconds; lower is better.", False, "lower"),
    ],
)
def test_direction(name: str, meaning: str, is_fraction: bool, direction: str):
    assert direction_of(name, meaning, is_fraction=is_fraction) == direction


@pytest.mark.parametrize(
    ("low", "high", "seeds", "expected"),
    [
        (0.1, 0.2, 3, True),
        (-0.2, -0.1, 3, True),
        (0.1, 0.2, 2, False),
        (-0.1, 0.2, 9, False),
        (0.0, 0.2, 9, False),
        (None, None, 9, False),
    ],
)
def test_what_is_a_finding(low: float, high: float, seeds: int, expected: bool):
    assert is_sure(low, high, seeds) is expected
