import math

import pytest
import torch
from exact import assert_close

from uniapl.objective.adversarial import (
    bradley_terry_loss,
    centred_credit,
    completion_credit,
    likelihood_logits,
    log_ratios,
    margin,
    pair_accuracy,
    reverse_kl,
    token_credit,
)


def test_log_ratios_reach_the_learned_expert_only() -> None:
    expert = torch.tensor([-1.0, -2.0], requires_grad=True)
    old = torch.tensor([-1.5, -0.5], requires_grad=True)
    ratios = log_ratios(expert, old)
    assert_close(ratios, [0.5, -1.5])
    ratios.sum().backward()
    assert_close(expert.grad, [1.0, 1.0])
    assert old.grad is None


def test_likelihood_logit_is_the_scaled_mean_per_token() -> None:
    ratios = torch.tensor([1.0, 3.0, -0.5])
    assert_close(likelihood_logits(ratios, torch.tensor([0, 0, 1]), 2, 5.0), [10.0, -2.5])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_loss_is_log_2_at_chance(smoothing: float) -> None:
    logits = torch.tensor([0.0, 3.0, -7.0])
    expected = [math.log(2)] * 3
    assert_close(bradley_terry_loss(logits, logits, smoothing), expected)


def test_loss_by_hand() -> None:
    expert, rollout = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.0])
    # Δ = 1.5 and -2
    plain = [math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(2.0))]
    assert_close(bradley_terry_loss(expert, rollout), plain)
    wrong_way = [math.log(1 + math.exp(1.5)), math.log(1 + math.exp(-2.0))]
    smoothed = [0.9 * p + 0.1 * w for p, w in zip(plain, wrong_way, strict=True)]
    assert_close(bradley_terry_loss(expert, rollout, 0.1), smoothed)
    penalised = [smoothed[0] + 0.01 * (4 + 0.25), smoothed[1] + 0.01 * (1 + 1)]
    assert_close(bradley_terry_loss(expert, rollout, 0.1, 0.01), penalised)


def test_loss_pushes_the_expert_up_and_the_rollout_down() -> None:
    expert, rollout = (torch.zeros(1, requires_grad=True) for _ in range(2))
    bradley_terry_loss(expert, rollout).sum().backward()
    assert expert.grad is not None
    assert rollout.grad is not None
    assert_close(expert.grad, [-0.5])
    assert_close(rollout.grad, [0.5])


def test_smoothed_loss_has_its_minimum_at_the_smoothed_odds() -> None:
    # σ(Δ) = 1 - s
    margin = torch.tensor([math.log(0.8 / 0.2)], requires_grad=True)
    bradley_terry_loss(margin, torch.zeros(1), 0.2).sum().backward()
    assert margin.grad is not None
    assert_close(margin.grad, [0.0])


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
    credit = token_credit(log_ratios(expert, policy), 50.0)
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


@pytest.mark.parametrize("credit", ["completion", "centred"])
def test_uncounted_rollouts_get_nothing_and_move_nothing(credit: str) -> None:
    logits = torch.tensor([[1.0, 99.0, 3.0], [5.0, 6.0, 7.0]])
    is_counted = torch.tensor([[True, False, True], [False, False, False]])
    if credit == "centred":
        result = centred_credit(logits, is_counted)
        expected = [[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    else:
        result = completion_credit(logits, is_counted, 0.0, 0.1)
        expected = [[-1 / 2**0.5, 0.0, 1 / 2**0.5], [0.0, 0.0, 0.0]]
    assert_close(result, expected)


def test_centred_credit_keeps_its_size() -> None:
    values = torch.tensor([[0.01, 0.03, 0.02], [10.0, 20.0, 60.0]])
    everybody = torch.ones(2, 3, dtype=torch.bool)
    assert_close(centred_credit(values, everybody), [[-0.01, 0.01, 0.0], [-20.0, -10.0, 30.0]])


def test_reverse_kl_is_minus_the_mean_over_counted_tokens() -> None:
    ratios = torch.tensor([0.5, -2.0, float("nan"), -1.5])
    assert_close(reverse_kl(ratios, torch.tensor([True, True, False, True])), 1.0)
    assert reverse_kl(ratios, torch.zeros(4, dtype=torch.bool)) is None
    assert reverse_kl(ratios[:0], torch.zeros(0, dtype=torch.bool)) is None


def test_reverse_kl_estimates_the_divergence() -> None:
    """Its mean over all samples of a small vocabulary, each as often as the policy draws it."""
    policy, expert = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
    drawn = torch.tensor([0, 0, 1, 2])
    ratios = log_ratios(expert.log()[drawn], policy.log()[drawn])
    assert_close(
        reverse_kl(ratios, torch.ones(4, dtype=torch.bool)),
        (policy * (policy / expert).log()).sum().item(),
    )


def test_reverse_kl_of_equal_models_is_zero_without_a_sign() -> None:
    assert str(reverse_kl(torch.zeros(2), torch.ones(2, dtype=torch.bool))) == "0.0"


def test_margin_by_hand() -> None:
    demonstrations, rollouts = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([-1.0, 0.5, 0.0, 9.0])
    is_demonstration = torch.tensor([True, True, False])
    is_rollout = torch.tensor([True, True, True, False])
    # 3 / 2 - (-0.5 / 3): means over tokens, both sides of their own length
    assert_close(margin(demonstrations, is_demonstration, rollouts, is_rollout), 1.5 + 0.5 / 3)
    assert_close(margin(rollouts, is_rollout, demonstrations, is_demonstration), -1.5 - 0.5 / 3)


def test_margin_without_tokens_on_one_side_is_none() -> None:
    ratios = torch.tensor([1.0, 2.0])
    everybody, nobody = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    assert margin(ratios, everybody, ratios, nobody) is None
    assert margin(ratios, nobody, ratios, everybody) is None
    assert margin(ratios, everybody, ratios, everybody) == 0.0
