"""The ratio per sequence (GSPO), CISPO and the dual clip."""

import math

import pytest
import torch
from exact import assert_close
from surrogates import clipped_surrogate
from torch import Tensor

from uniapl.errors import InputError
from uniapl.objective.policy_gradient import (
    MAX_LOG_RATIO,
    cispo_surrogate,
    is_ratio_clipped,
    ratio_surrogate,
    sequence_ratio,
    token_ratio,
)

LOW, HIGH = 0.2, 0.3

# three sequences with 2, 3 and 0 counted tokens, interleaved; token 5 belongs to sequence 0 but does not count
INDEX = torch.tensor([1, 0, 1, 0, 1, 0, 2])
COUNTED = torch.tensor([True, True, True, True, True, False, False])
LOG_RATIOS = torch.tensor([0.3, 0.1, -0.6, -0.4, 0.9, 7.0, 7.0], dtype=torch.float64)


def plain_sequence_ratio(log_ratios: Tensor, sequence: int) -> Tensor:
    """exp of the mean, written out for one sequence."""
    own = [
        log_ratios[t] for t in range(len(INDEX)) if int(INDEX[t]) == sequence and bool(COUNTED[t])
    ]
    return (sum(own[1:], start=own[0]) / len(own)).exp()


def test_sequence_ratio_by_hand() -> None:
    ratio = sequence_ratio(LOG_RATIOS, INDEX, 3, COUNTED)
    first, second = math.exp((0.1 - 0.4) / 2), math.exp((0.3 - 0.6 + 0.9) / 3)
    assert_close(ratio, [second, first, second, first, second, 1.0, 1.0])


def test_sequence_ratio_has_the_tokens_gradient() -> None:
    """d s_i,t / d log π_θ(y_i,t) = s_i, and no other token moves it."""
    log_ratios = LOG_RATIOS.clone().requires_grad_()
    ratio = sequence_ratio(log_ratios, INDEX, 3, COUNTED)
    jacobian = torch.stack(
        [torch.autograd.grad(r, log_ratios, retain_graph=True)[0] for r in ratio]
    )
    expected = torch.diag(ratio.detach() * COUNTED)
    assert_close(jacobian, expected)


def test_one_weight_per_sequence_gives_gspos_gradient() -> None:
    """Sum_t w s_i,t has the gradient of w |y_i| s_i, with s_i differentiated as it stands."""
    log_ratios = LOG_RATIOS.clone().requires_grad_()
    weights = torch.tensor([2.0, -0.5, 0.0])
    (gradient,) = torch.autograd.grad(
        (sequence_ratio(log_ratios, INDEX, 3, COUNTED) * weights[INDEX] * COUNTED).sum(), log_ratios
    )
    lengths = (2, 3)
    whole = sum(
        (weights[i] * lengths[i] * plain_sequence_ratio(log_ratios, i) for i in (0, 1)),
        start=torch.zeros(()),
    )
    (expected,) = torch.autograd.grad(whole, log_ratios)
    assert_close(gradient, expected)


def test_sequences_may_be_in_different_micro_batches() -> None:
    whole = sequence_ratio(LOG_RATIOS, INDEX, 3, COUNTED)
    for sequence in range(3):
        own = INDEX.eq(sequence)
        part = sequence_ratio(LOG_RATIOS[own], torch.zeros_like(INDEX[own]), 1, COUNTED[own])
        assert part.tolist() == whole[own].tolist()


def test_on_a_first_pass_both_ratios_are_1_with_gradient_1() -> None:
    log_ratios = torch.zeros(7, requires_grad=True)
    ratio = sequence_ratio(log_ratios, INDEX, 3, COUNTED)
    assert ratio.tolist() == token_ratio(log_ratios).tolist() == [1.0] * 7
    (gradient,) = torch.autograd.grad(ratio.sum(), log_ratios)
    assert gradient.tolist() == COUNTED.double().tolist()


@pytest.mark.parametrize("wild", [float("inf"), -float("inf"), float("nan"), 1e6])
def test_uncounted_tokens_do_not_move_a_sequence(wild: float) -> None:
    log_ratios = torch.where(COUNTED, LOG_RATIOS, wild).requires_grad_()
    ratio = sequence_ratio(log_ratios, INDEX, 3, COUNTED)
    assert ratio.tolist() == sequence_ratio(LOG_RATIOS, INDEX, 3, COUNTED).tolist()
    (gradient,) = torch.autograd.grad((ratio * COUNTED).sum(), log_ratios)
    assert_close(gradient, ratio.detach() * COUNTED)


def test_a_sequence_beyond_the_bound_stands_still() -> None:
    log_ratios = torch.tensor([1000.0, 10.0, 0.5, -1000.0], requires_grad=True)
    index = torch.tensor([0, 0, 1, 2])
    ratio = sequence_ratio(log_ratios, index, 3, torch.ones(4, dtype=torch.bool))
    assert_close(ratio, [math.exp(MAX_LOG_RATIO)] * 2 + [math.exp(0.5), 0.0])
    (gradient,) = torch.autograd.grad(ratio.sum(), log_ratios)
    assert_close(gradient, [0.0, 0.0, math.exp(0.5), 0.0])


def test_token_ratio_passes_gradcheck() -> None:
    log_ratios = torch.tensor([0.3, -2.0, 5.0, 30.0], requires_grad=True)
    assert torch.autograd.gradcheck(token_ratio, log_ratios)


def cispo(ratio: float, weight: float, clip_low: float = LOW) -> tuple[float, float]:
    logprobs = torch.tensor([math.log(0.1 * ratio)], requires_grad=True)
    old = torch.tensor([math.log(0.1)], requires_grad=True)
    value = cispo_surrogate(logprobs, old, torch.tensor([weight]), clip_low, HIGH)
    value.sum().backward()
    assert old.grad is None
    assert logprobs.grad is not None
    return value.item(), logprobs.grad.item()


@pytest.mark.parametrize("weight", [2.0, -2.0])
@pytest.mark.parametrize(
    ("ratio", "clip_low", "clipped"),
    [
        (1.0, LOW, 1.0),
        (1.25, LOW, 1.25),  # inside
        (1.5, LOW, 1.3),  # above
        (0.5, LOW, 0.8),  # below
        (0.5, 1.0, 0.5),  # no lower bound, as in the paper
    ],
)
def test_cispo_clips_the_ratio_and_never_the_token(
    ratio: float, clip_low: float, clipped: float, weight: float
) -> None:
    value, gradient = cispo(ratio, weight, clip_low)
    assert_close(value, clipped * weight * math.log(0.1 * ratio))
    # no derivative of the ratio: sg
    assert_close(gradient, clipped * weight)


def test_cispo_is_ppo_on_a_first_pass() -> None:
    gradients = []
    for surrogate in (cispo_surrogate, clipped_surrogate):
        logprobs = torch.tensor([-2.0, -0.5, -3.0], requires_grad=True)
        weights = torch.tensor([0.5, -0.25, 0.0])
        surrogate(logprobs, logprobs.detach(), weights, LOW, HIGH).sum().backward()
        assert logprobs.grad is not None
        gradients.append(logprobs.grad.tolist())
    assert gradients[0] == gradients[1] == [0.5, -0.25, 0.0]


@pytest.mark.parametrize("old", [-1.0, -1000.0, -float("inf"), float("nan")])
@pytest.mark.parametrize("own", [-1.0, -float("inf"), float("nan")])
def test_cispo_leaves_out_tokens_without_weight(own: float, old: float) -> None:
    logprobs = torch.tensor([own], requires_grad=True)
    value = cispo_surrogate(logprobs, torch.tensor([old]), torch.zeros(1), LOW, HIGH)
    value.sum().backward()
    assert value.item() == 0.0
    assert logprobs.grad is not None
    assert logprobs.grad.item() == 0.0


@pytest.mark.parametrize(
    ("ratio", "weight", "value", "slope"),
    [
        (2.0, -2.0, -4.0, -2.0),  # between 1 + clip_high and c: PPO's
        (5.0, -2.0, -6.0, 0.0),  # above c = 3: c w
        (0.5, -2.0, -1.6, 0.0),  # below 1 - clip_low: PPO's
        (5.0, 2.0, 2.6, 0.0),  # positive weights never meet c
        (0.5, 2.0, 1.0, 2.0),
        (5.0, 0.0, 0.0, 0.0),
    ],
)
def test_dual_clip_by_hand(ratio: float, weight: float, value: float, slope: float) -> None:
    ratio_T = torch.tensor([ratio], requires_grad=True)
    weights_T = torch.tensor([weight])
    surrogate = ratio_surrogate(ratio_T, weights_T, LOW, HIGH, dual_clip=3.0)
    assert_close(surrogate, [value])
    (gradient,) = torch.autograd.grad(surrogate.sum(), ratio_T)
    assert_close(gradient, [slope])
    is_gone = weight != 0 and slope == 0.0
    assert is_ratio_clipped(ratio_T, weights_T, LOW, HIGH, dual_clip=3.0).tolist() == [is_gone]


def test_surrogates_pass_gradcheck() -> None:
    ratio = torch.tensor([0.5, 0.9, 1.1, 2.0, 5.0] * 2, requires_grad=True)
    weights = torch.tensor([0.7, -1.3]).repeat_interleave(5)
    for dual_clip in (None, 3.0):
        assert torch.autograd.gradcheck(
            lambda r, c=dual_clip: ratio_surrogate(r, weights, LOW, HIGH, c), ratio
        )


def test_without_dual_clip_the_surrogate_is_ppos() -> None:
    log_ratios = torch.tensor([-0.9, -0.1, 0.0, 0.2, 1.9] * 2)
    weights = torch.tensor([0.7, -1.3]).repeat_interleave(5)
    old = torch.full_like(weights, -3.0)
    by_ratio = ratio_surrogate(token_ratio(log_ratios), weights, LOW, HIGH)
    assert_close(by_ratio, clipped_surrogate(old + log_ratios, old, weights, LOW, HIGH))
    # and a dual clip that no ratio reaches changes nothing
    dual = ratio_surrogate(token_ratio(log_ratios), weights, LOW, HIGH, dual_clip=10.0)
    assert dual.tolist() == by_ratio.tolist()


@pytest.mark.parametrize("function", [ratio_surrogate, is_ratio_clipped])
@pytest.mark.parametrize("dual_clip", [1.0, 1.3, -3.0])
def test_a_dual_clip_inside_the_clip_is_refused(function, dual_clip: float) -> None:
    with pytest.raises(InputError, match=r"dual_clip: must be above 1 \+ clip_high \(1\.3\), got"):
        function(torch.ones(1), torch.ones(1), LOW, HIGH, dual_clip)
