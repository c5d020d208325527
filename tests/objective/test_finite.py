"""Neither 0 · ∞ nor an infinite gradient, and on ordinary input the numbers of the plain formulas, bit for bit."""

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from exact import assert_close
from surrogates import clipped_surrogate, is_clipped
from torch import Tensor

from uniapl.objective.policy_gradient import (
    MAX_LOG_RATIO,
    importance_weights,
    k3,
)
from uniapl.objective.unified import (
    RolloutTokens,
    Scale,
    unified_objective,
)

LOW, HIGH = 0.2, 0.3
SCALE = Scale(
    sft_weight=0.3,
    grpo_weight=1.0,
    adversarial_weight=0.5,
    kl_coef=0.05,
    num_sft=5,
    num_rewarded=1,
    num_credited=1,
    num_penalised=900,
    clip_low=LOW,
    clip_high=HIGH,
)
INF, NAN = float("inf"), float("nan")


def plain_surrogate(logprobs: Tensor, old: Tensor, weights: Tensor) -> Tensor:
    ratio = (logprobs - old.detach()).exp()
    return torch.minimum(ratio * weights, ratio.clamp(1 - LOW, 1 + HIGH) * weights)


def plain_is_clipped(logprobs: Tensor, old: Tensor, weights: Tensor) -> Tensor:
    ratio = (logprobs - old).exp()
    return ((weights > 0) & (ratio > 1 + HIGH)) | ((weights < 0) & (ratio < 1 - LOW))


def plain_k3(logprobs: Tensor, ref: Tensor) -> Tensor:
    log_ratio = ref.detach() - logprobs
    return log_ratio.exp() - 1 - log_ratio


def ordinary(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probs now, before and of the reference, and weights; every tenth weight is 0, every tenth ratio 1."""
    generator = torch.Generator().manual_seed(0)
    shape = (1000,)
    logprobs = -5 * torch.rand(shape, generator=generator, dtype=dtype)
    old = logprobs + 0.3 * torch.randn(shape, generator=generator, dtype=dtype)
    old[::10] = logprobs[::10]
    # log-ratios far from the bound on the upper side, and beyond any on the lower
    old[1::50] = logprobs[1::50] - 15
    old[2::50] = logprobs[2::50] + 60
    ref = logprobs + 3 * torch.randn(shape, generator=generator, dtype=dtype)
    ref[3::50] = logprobs[3::50] + 15
    ref[4::50] = logprobs[4::50] - 60
    weights = torch.randn(shape, generator=generator, dtype=dtype) / 700
    weights[5::10] = 0.0
    return logprobs, old, ref, weights


def value_and_gradient(function, logprobs: Tensor, *rest) -> tuple[Tensor, Tensor]:
    leaf = logprobs.clone().requires_grad_()
    value = function(leaf, *rest)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ordinary_numbers_are_those_of_the_plain_formulas_bit_for_bit(dtype: torch.dtype) -> None:
    logprobs, old, ref, weights = ordinary(dtype)
    new = value_and_gradient(clipped_surrogate, logprobs, old, weights, LOW, HIGH)
    plain = value_and_gradient(plain_surrogate, logprobs, old, weights)
    assert all(map(torch.equal, new, plain))
    assert torch.equal(
        is_clipped(logprobs, old, weights, LOW, HIGH), plain_is_clipped(logprobs, old, weights)
    )
    is_counted = weights != 0
    plain = value_and_gradient(plain_k3, logprobs, ref)
    assert all(map(torch.equal, value_and_gradient(k3, logprobs, ref), plain))
    masked = value_and_gradient(
        lambda own: plain_k3(own, ref).masked_fill(~is_counted, 0.0), logprobs
    )
    assert all(map(torch.equal, value_and_gradient(k3, logprobs, ref, is_counted), masked))
    plain_importance = (old - logprobs).exp().clamp(max=2.0)
    assert torch.equal(importance_weights(old, logprobs, 2.0), plain_importance)
    counted = importance_weights(old, logprobs, 2.0, is_counted)
    assert torch.equal(counted, plain_importance.masked_fill(~is_counted, 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_objective_of_ordinary_tokens_is_the_same_bit_for_bit(dtype: torch.dtype) -> None:
    logprobs, old, ref, weights = ordinary(dtype)
    is_counted = weights != 0

    def new(own: Tensor) -> Tensor:
        tokens = RolloutTokens(
            logprobs_T=own,
            old_logprobs_T=old,
            sampling_logprobs_T=old,
            reward_advantages_T=weights,
            is_rewarded_T=is_counted,
            is_penalised_T=is_counted,
            ref_logprobs_T=ref,
        )
        return unified_objective(own[:5], tokens, SCALE).loss

    def plain(own: Tensor) -> Tensor:
        kl = plain_k3(own, ref).masked_fill(~is_counted, 0.0)
        sft = -own[:5].sum() * (SCALE.sft_weight / SCALE.num_sft)
        surrogate = plain_surrogate(own, old, weights)
        # a ratio above 3 with a negative weight: the dual clip
        surrogate = torch.where(weights < 0, torch.maximum(surrogate, 3 * weights), surrogate)
        return sft - surrogate.sum() + kl.sum() * (SCALE.kl_coef / SCALE.num_penalised)

    both = value_and_gradient(new, logprobs), value_and_gradient(plain, logprobs)
    assert all(map(torch.equal, *both))


BROKEN = [
    (-1.0, -1000.0),  # the ratio overflows
    (-1000.0, -1.0),  # the reference's overflows
    (-1.0, -INF),
    (-INF, -1.0),
    (-INF, -INF),
    (NAN, -1.0),
    (-1.0, NAN),
]


@pytest.mark.parametrize(("own", "other"), BROKEN)
def test_a_token_without_weight_has_neither_value_nor_gradient(own: float, other: float) -> None:
    logprobs, old = torch.tensor([own, -1.0]), torch.tensor([other, -1.0])
    weights = torch.tensor([0.0, 2.0])
    value, gradient = value_and_gradient(clipped_surrogate, logprobs, old, weights, LOW, HIGH)
    assert value.tolist() == gradient.tolist() == [0.0, 2.0]
    assert not is_clipped(logprobs, old, weights, LOW, HIGH).any()


@pytest.mark.parametrize(("own", "other"), BROKEN)
def test_an_uncounted_token_has_no_kl_and_no_gradient(own: float, other: float) -> None:
    is_counted = torch.tensor([False, True])
    logprobs, ref = torch.tensor([own, -1.0]), torch.tensor([other, -1.5])
    value, gradient = value_and_gradient(k3, logprobs, ref, is_counted)
    assert_close(value, [0.0, math.exp(-0.5) - 0.5])
    assert_close(gradient, [0.0, 1 - math.exp(-0.5)])
    assert value[0] == gradient[0] == 0.0


@pytest.mark.parametrize(("own", "other"), BROKEN)
def test_an_uncounted_token_has_importance_weight_1(own: float, other: float) -> None:
    weights = importance_weights(
        torch.tensor([own, -1.0]),
        torch.tensor([other, -1.5]),
        2.0,
        torch.tensor([False, True]),
    )
    assert_close(weights, [1.0, math.exp(0.5)])


@pytest.mark.parametrize("policy_gradient", ["ppo", "gspo", "cispo"])
@pytest.mark.parametrize("part", ["whole", "terms"])
@pytest.mark.parametrize(("own", "other"), BROKEN)
def test_a_masked_token_does_not_reach_the_objective(
    own: float, other: float, part: str, policy_gradient: Literal["ppo", "gspo", "cispo"]
) -> None:
    """Masked in all three terms; its reward and its credit are NaN. It is alone in its completion."""
    logprobs = torch.tensor([own, -2.5], requires_grad=True)
    only_second = torch.tensor([False, True])
    rollouts = RolloutTokens(
        logprobs_T=logprobs,
        old_logprobs_T=torch.tensor([other, -2.5]),
        sampling_logprobs_T=torch.tensor([other, -2.5]),
        reward_advantages_T=torch.tensor([NAN, 0.5]),
        is_rewarded_T=only_second,
        is_penalised_T=only_second,
        credit_T=torch.tensor([NAN, -0.6]),
        is_credited_T=only_second,
        ref_logprobs_T=torch.tensor([other, -2.5]),
        sequence_index_T=torch.tensor([0, 1]),
        num_sequences=2,
    )
    scale = replace(SCALE, policy_gradient=policy_gradient, importance_cap=2.0)
    found = unified_objective(None, rollouts, scale)
    loss = found.loss if part == "whole" else sum(found.terms.values(), torch.zeros(()))
    loss.backward()
    # w = .5 - .5 · .6 at ρ = 1; CISPO's value is w log π
    assert_close(loss.item(), -0.2 * (-2.5 if policy_gradient == "cispo" else 1.0))
    assert logprobs.grad is not None
    assert_close(logprobs.grad, [0.0, -0.2])
    for name in ("grpo", "adversarial", "kl", "ratio", "entropy", "gap"):
        assert found.sums[name].isfinite(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_beyond_the_bound_the_ratio_stands_still(dtype: torch.dtype) -> None:
    old = torch.tensor([-19.0, -21.0, -1000.0], dtype=dtype) - 1
    logprobs, weights = torch.full_like(old, -1.0), torch.full_like(old, -2.0)
    value, gradient = value_and_gradient(clipped_surrogate, logprobs, old, weights, LOW, HIGH)
    expected = -2 * torch.tensor([19.0, MAX_LOG_RATIO, MAX_LOG_RATIO], dtype=dtype).exp()
    torch.testing.assert_close(value, expected)
    assert gradient[0] == value[0]
    assert gradient[1:].tolist() == [0.0, 0.0]
    value, gradient = value_and_gradient(k3, old, logprobs)
    assert value.isfinite().all()
    assert (value > 0).all()
    # never the wrong sign: the linear part alone would push the policy away from the reference
    assert gradient[0] < 0
    assert gradient[1:].tolist() == [0.0, 0.0]
    capped = importance_weights(logprobs, old, INF)
    assert capped.isfinite().all()


def test_what_counts_and_is_not_finite_stays_visible() -> None:
    nan, weight = torch.tensor([NAN]), torch.tensor([1.0])
    assert clipped_surrogate(nan, weight, weight, LOW, HIGH).isnan().all()
    assert k3(nan, weight, weight > 0).isnan().all()
    assert importance_weights(nan, weight, 2.0, weight > 0).isnan().all()
