import math

import pytest
import torch
from exact import assert_close

from uniapl.objective.demonstrations import phi_weights


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
