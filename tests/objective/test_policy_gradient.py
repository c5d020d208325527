import math

import pytest
import torch
from exact import assert_close
from surrogates import clipped_surrogate, is_clipped

from uniapl.objective.policy_gradient import importance_weights, k3

LOW, HIGH = 0.2, 0.3


def surrogate_and_gradient(ratio: float, weight: float) -> tuple[float, float]:
    logprobs = torch.tensor([math.log(0.1 * ratio)], requires_grad=True)
    old = torch.tensor([math.log(0.1)], requires_grad=True)
    value = clipped_surrogate(logprobs, old, torch.tensor([weight]), LOW, HIGH)
    value.sum().backward()
    assert old.grad is None
    assert logprobs.grad is not None
    return value.item(), logprobs.grad.item()


@pytest.mark.parametrize(
    ("ratio", "weight", "value", "is_live"),
    [
        (1.0, 2.0, 2.0, True),
        (1.0, -2.0, -2.0, True),
        (1.25, 2.0, 2.5, True),  # inside
        (1.5, 2.0, 2.6, False),  # above, already likelier: (1 + 0.3) · 2
        (1.5, -2.0, -3.0, True),  # above, but it should fall
        (0.5, 2.0, 1.0, True),  # below, but it should rise
        (0.5, -2.0, -1.6, False),  # below, already less likely: (1 - 0.2) · -2
        (0.75, -2.0, -1.6, False),  # below 0.8, above 1 - clip_high: the low side is clip_low's
        (1.25, -2.0, -2.5, True),
        (0.85, -2.0, -1.7, True),
        (1.5, 0.0, 0.0, False),
    ],
)
def test_both_clip_sides_and_both_signs(
    ratio: float, weight: float, value: float, is_live: bool
) -> None:
    surrogate, gradient = surrogate_and_gradient(ratio, weight)
    assert_close(surrogate, value)
    if is_live:
        # d(ρ w)/d log π = ρ w
        assert_close(gradient, ratio * weight)
    else:
        assert gradient == 0.0


@pytest.mark.parametrize("weight", [1.5, -1.5])
def test_first_pass_is_reinforce(weight: float) -> None:
    logprobs = torch.tensor([-2.0, -0.5], requires_grad=True)
    weights = torch.tensor([weight, -weight])
    clipped_surrogate(logprobs, logprobs.detach(), weights, LOW, HIGH).sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == weights.tolist()


def test_is_clipped_is_where_the_gradient_is_gone() -> None:
    ratios = torch.tensor([0.5, 0.79, 0.81, 1.0, 1.29, 1.31, 2.0] * 3)
    weights = torch.tensor([1.0, -1.0, 0.0]).repeat_interleave(7)
    old = torch.full_like(ratios, -3.0)
    logprobs = (old + ratios.log()).requires_grad_()
    clipped_surrogate(logprobs, old, weights, LOW, HIGH).sum().backward()
    assert logprobs.grad is not None
    clipped = is_clipped(logprobs, old, weights, LOW, HIGH)
    assert clipped.tolist() == ((logprobs.grad == 0) & (weights != 0)).tolist()
    assert clipped.sum() == 4


def test_importance_weights_are_truncated_constants() -> None:
    old = torch.tensor([-1.0, -1.0, -1.0, 0.0], requires_grad=True)
    sampled = torch.tensor([-1.0, -3.0, -0.5, -1000.0])
    weights = importance_weights(old, sampled, 2.0)
    # e^2 is cut to 2, e^-0.5 stays, and an overflow is cut too
    assert_close(weights, [1.0, 2.0, math.exp(-0.5), 2.0])
    assert not weights.requires_grad


def test_k3_by_hand() -> None:
    logprobs = torch.tensor([math.log(0.5), math.log(0.2), math.log(0.3)])
    ref = torch.tensor([math.log(0.25), math.log(0.4), math.log(0.3)])
    # r - 1 - log r with r = 0.5, 2, 1
    assert_close(k3(logprobs, ref), [-0.5 + math.log(2), 1 - math.log(2), 0.0])


def test_k3_is_unbiased_and_has_the_forward_kls_gradient() -> None:
    logits = torch.tensor([0.3, -1.0, 0.8, 0.1], requires_grad=True)
    ref = torch.tensor([1.0, 0.2, -0.5, 0.0], requires_grad=True)
    policy, reference = logits.log_softmax(0), ref.log_softmax(0)
    estimates = k3(policy, reference)
    assert (estimates >= 0).all()
    expected_value = (policy.exp() * (policy - reference)).sum()
    assert_close((policy.exp() * estimates).sum().item(), expected_value.item())
    # expectation of the gradient: samples held fixed, so their probability is a constant
    (gradient,) = torch.autograd.grad((policy.exp().detach() * estimates).sum(), logits)
    policy, reference = logits.log_softmax(0), ref.log_softmax(0)
    (closed,) = torch.autograd.grad((reference.exp() * (reference - policy)).sum(), logits)
    assert_close(gradient, closed)
    (per_token,) = torch.autograd.grad(k3(policy := logits.log_softmax(0), reference).sum(), policy)
    assert_close(per_token, 1 - (reference - policy).exp())


def test_k3_leaves_the_reference_alone() -> None:
    ref = torch.tensor([-1.0], requires_grad=True)
    value = k3(torch.tensor([-2.0], requires_grad=True), ref)
    value.sum().backward()
    assert ref.grad is None
