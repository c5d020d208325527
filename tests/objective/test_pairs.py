import math

import pytest
import torch
from exact import assert_close

from uniapl.objective.pairs import dpo_loss


def test_dpo_by_hand() -> None:
    chosen, rejected = torch.tensor([-10.0, -20.0]), torch.tensor([-12.0, -15.0])
    ref_chosen, ref_rejected = torch.tensor([-11.0, -18.0]), torch.tensor([-11.5, -17.0])
    # Δ: 1 - (-0.5) = 1.5 and -2 - 2 = -4
    expected = [math.log(1 + math.exp(-0.1 * 1.5)), math.log(1 + math.exp(0.1 * 4))]
    assert_close(dpo_loss(chosen, rejected, ref_chosen, ref_rejected, 0.1), expected)


def test_dpo_is_log_2_where_the_policy_is_the_reference() -> None:
    chosen, rejected = torch.tensor([-3.0, -700.0]), torch.tensor([-5.0, -2.0])
    assert_close(dpo_loss(chosen, rejected, chosen, rejected, 0.7), [math.log(2)] * 2)


def test_dpo_gradient_by_hand() -> None:
    """The paper's section 4: -β σ(β (Δ_rejected - Δ_chosen)) (∇log π(chosen) - ∇log π(rejected))."""
    inputs = [torch.tensor([value], requires_grad=True) for value in (-10.0, -12.0, -11.0, -11.5)]
    dpo_loss(*inputs, 0.1).sum().backward()
    pull = 0.1 / (1 + math.exp(0.1 * 1.5))
    chosen, rejected, *reference = (leaf.grad for leaf in inputs)
    assert_close(chosen, [-pull])
    assert_close(rejected, [pull])
    assert reference == [None, None]


def test_dpo_passes_gradcheck() -> None:
    chosen, rejected = (torch.tensor([-10.0, -20.0, -3.0], requires_grad=True) for _ in range(2))
    references = torch.tensor([-11.0, -18.0, -2.0]), torch.tensor([-11.5, -17.0, -9.0])
    assert torch.autograd.gradcheck(
        lambda c, r: dpo_loss(c, r, *references, 0.3), (chosen, rejected)
    )


@pytest.mark.parametrize("margin", [-1e6, 1e6])
def test_dpo_of_hopeless_and_of_certain_pairs_is_finite(margin: float) -> None:
    chosen = torch.tensor([margin], dtype=torch.float32, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float32)
    loss = dpo_loss(chosen, zero, zero, zero, 0.1)
    loss.sum().backward()
    # linear on the wrong side, flat on the right one
    assert_close(loss.detach(), [max(-0.1 * margin, 0.0)])
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.1 if margin < 0 else 0.0)
