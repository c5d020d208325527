import math

import torch
from exact import assert_close

from uniapl.objective.adversarial import (
    bradley_terry_loss,
    completion_credit,
    pair_accuracy,
    token_credit,
)


def test_loss_is_log_2_at_chance() -> None:
    logits = torch.tensor([0.0, 3.0, -7.0])
    assert_close(bradley_terry_loss(logits, logits), [math.log(2)] * 3)


def test_loss_by_hand() -> None:
    expert, rollout = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.0])
    # Δ = 1.5 and -2
    plain = [math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(2.0))]
    assert_close(bradley_terry_loss(expert, rollout), plain)


def test_loss_pushes_the_expert_up_and_the_rollout_down() -> None:
    expert, rollout = (torch.zeros(1, requires_grad=True) for _ in range(2))
    bradley_terry_loss(expert, rollout).sum().backward()
    assert expert.grad is not None
    assert rollout.grad is not None
    assert_close(expert.grad, [-0.5])
    assert_close(rollout.grad, [0.5])


def test_ties_count_half() -> None:
    expert, rollout = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 3.0])
    assert pair_accuracy(expert, rollout).tolist() == [1.0, 0.5, 0.0]


def test_token_credit_is_clamped_and_not_centred() -> None:
    ratios = torch.tensor([0.5, 4.0, -9.0, 3.0])
    assert token_credit(ratios, 3.0).tolist() == [0.5, 3.0, -3.0, 3.0]


def test_token_credit_descends_the_reverse_kl() -> None:
    """E_π[k ∇log π] = -∇KL(π ‖ p_φ), the docstring's claim, over a whole small vocabulary."""
    logits = torch.tensor([0.3, -1.0, 0.8], requires_grad=True)
    expert = torch.tensor([0.2, 0.5, 0.3]).log()
    policy = logits.log_softmax(0)
    credit = token_credit((expert - policy).detach(), 50.0)
    (ascent,) = torch.autograd.grad((policy.exp().detach() * credit * policy).sum(), logits)
    policy = logits.log_softmax(0)
    (kl_gradient,) = torch.autograd.grad((policy.exp() * (policy - expert)).sum(), logits)
    assert_close(ascent, -kl_gradient)


ALL = torch.ones(1, 3, dtype=torch.bool)


def test_completion_credit_divides_by_the_greatest_of_three() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]])  # std 1
    assert_close(completion_credit(logits, ALL, 0.0, 0.1), [[-1.0, 0.0, 1.0]])
    assert_close(completion_credit(logits, ALL, 4.0, 0.1), [[-0.25, 0.0, 0.25]])
    assert_close(completion_credit(logits, ALL, 4.0, 8.0), [[-0.125, 0.0, 0.125]])


def test_noise_is_not_blown_up() -> None:
    noise = torch.tensor([[1e-6, -1e-6, 0.0]])
    assert completion_credit(noise, ALL, 0.0, 0.1).abs().max() <= 2e-5
    # in a batch whose groups used to differ by 2, a group that differs by 0.1 stays small
    quiet = torch.tensor([[0.1, -0.1, 0.0]])
    assert_close(completion_credit(quiet, ALL, 2.0, 0.01), [[0.05, -0.05, 0.0]])


def test_uncounted_rollouts_get_nothing_and_move_nothing() -> None:
    logits = torch.tensor([[1.0, 99.0, 3.0], [5.0, 6.0, 7.0]])
    is_counted = torch.tensor([[True, False, True], [False, False, False]])
    result = completion_credit(logits, is_counted, 0.0, 0.1)
    assert_close(result, [[-1 / 2**0.5, 0.0, 1 / 2**0.5], [0.0, 0.0, 0.0]])
