import math

import pytest
import torch
from exact import assert_close

from uniapl.errors import InputError
from uniapl.objective.demonstrations import chord_mu, phi_weights


def test_phi_by_hand() -> None:
    logprobs = torch.tensor([0.5, 0.1, 0.9, 1.0]).log()
    assert_close(phi_weights(logprobs), [0.25, 0.09, 0.09, 0.0])


def test_phi_is_a_constant() -> None:
    logprobs = torch.tensor([-0.7, -2.0], requires_grad=True)
    phi = phi_weights(logprobs)
    assert not phi.requires_grad
    # so the term's gradient is -φ_t, as in the paper, and not that of p (1 - p) log p
    (-phi * logprobs).sum().backward()
    assert_close(logprobs.grad, [-math.exp(lp) * (1 - math.exp(lp)) for lp in (-0.7, -2.0)])


def test_phi_keeps_its_digits_near_certainty_and_impossibility() -> None:
    logprobs = torch.tensor([-1e-9, -50.0, -1000.0, -float("inf"), 1e-7], dtype=torch.float32)
    phi = phi_weights(logprobs)
    assert phi[0].item() == pytest.approx(1e-9, rel=1e-5)  # 1 - exp would give 0
    assert phi[1].item() == pytest.approx(math.exp(-50), rel=1e-5)
    assert phi[2:].tolist() == [0.0, 0.0, 0.0]


def test_mu_rises_linearly_then_falls_along_half_a_cosine() -> None:
    values = [chord_mu(step, 0.9, 0.1, 3, 4) for step in range(9)]
    diagonal = (1 + math.cos(math.pi / 4)) / 2
    expected = [
        *(0.0, 0.3, 0.6, 0.9),
        *(0.1 + 0.8 * diagonal, 0.5, 0.1 + 0.8 * (1 - diagonal)),
        *(0.1, 0.1),
    ]
    assert_close(values, expected)
    assert values[7:] == [0.1, 0.1]


def test_mu_without_warm_up_or_decay() -> None:
    assert [chord_mu(step, 0.5, 0.02, 0, 2) for step in range(4)] == [
        0.5,
        pytest.approx(0.26),
        0.02,
        0.02,
    ]
    assert [chord_mu(step, 0.5, 0.02, 2, 0) for step in range(4)] == [0.0, 0.25, 0.02, 0.02]
    assert [chord_mu(step, 0.1, 0.1, 0, 0) for step in range(3)] == [0.1] * 3


@pytest.mark.parametrize(
    ("peak", "valley", "warmup", "decay", "message"),
    [
        (0.1, 0.5, 1, 1, "got valley 0.5 and peak 0.1"),
        (1.5, 0.5, 1, 1, "got valley 0.5 and peak 1.5"),
        (0.5, -0.1, 1, 1, "got valley -0.1 and peak 0.5"),
        (0.5, 0.1, -1, 1, "got -1 and 1"),
        (0.5, 0.1, 1, -1, "got 1 and -1"),
    ],
)
def test_impossible_schedules_are_refused(
    peak: float, valley: float, warmup: int, decay: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        chord_mu(0, peak, valley, warmup, decay)
