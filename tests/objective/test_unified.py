"""The step's loss by hand: weights, counts, clip, terms, and what is measured."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from exact import assert_close
from torch import Tensor

from uniapl.objective.unified import RolloutTokens, Scale, token_weights, unified_objective

# six tokens: all; all; without reward; without KL and reward; not credited; all
ADVANTAGES = torch.tensor([1.0, -2.0, 9.0, 5.0, 3.0, 0.5], dtype=torch.float64)
CREDIT = torch.tensor([0.1, 0.2, -0.4, 7.0, 7.0, -0.3], dtype=torch.float64)
REWARDED = torch.tensor([True, True, False, False, True, True])
CREDITED = torch.tensor([True, True, True, True, False, True])
PENALISED = torch.tensor([True, True, True, False, True, True])
SCALE = Scale(
    sft_weight=0.3,
    grpo_weight=2.0,
    adversarial_weight=0.5,
    kl_coef=0.05,
    num_sft=5,
    num_rewarded=4,
    num_credited=5,
    num_penalised=5,
)
LOGPROBS = torch.tensor([-1.0, -2.5, -0.5, -1.5, -3.0, -0.2], dtype=torch.float64)
REF = torch.tensor([-1.0, -2.0, -3.0, -9.0, -3.0, -0.2], dtype=torch.float64)
EXPERT = torch.tensor([-0.7, -0.3], dtype=torch.float64)


def tokens(logprobs_T: Tensor = LOGPROBS, **changes: Any) -> RolloutTokens:
    values: dict[str, Any] = {
        "old_logprobs_T": logprobs_T.detach(),
        "sampling_logprobs_T": logprobs_T.detach(),
        "reward_advantages_T": ADVANTAGES,
        "is_rewarded_T": REWARDED,
        "is_penalised_T": PENALISED,
        "credit_T": CREDIT,
        "is_credited_T": CREDITED,
        "ref_logprobs_T": REF,
        **changes,
    }
    return RolloutTokens(logprobs_T, **values)


def part(whole: RolloutTokens, places: slice) -> RolloutTokens:
    cut = {
        name: getattr(whole, name)[places]
        for name in RolloutTokens.__dataclass_fields__
        if isinstance(getattr(whole, name), Tensor)
    }
    return replace(whole, **cut)


def test_weights_by_hand() -> None:
    rewards, weights = token_weights(tokens(), SCALE)
    of_reward = [2 * 1.0 / 4, 2 * -2.0 / 4, 0.0, 0.0, 2 * 3.0 / 4, 2 * 0.5 / 4]
    of_credit = [0.5 * c / 5 for c in (0.1, 0.2, -0.4, 7.0, 0.0, -0.3)]
    assert_close(rewards, of_reward)
    assert_close(weights, [a + b for a, b in zip(of_reward, of_credit, strict=True)])


def test_tokens_that_do_not_count_are_exactly_zero_whatever_they_hold() -> None:
    wild = tokens(
        reward_advantages_T=torch.where(REWARDED, ADVANTAGES, float("nan")),
        credit_T=torch.where(CREDITED, CREDIT, float("inf")),
    )
    assert [w.tolist() for w in token_weights(wild, SCALE)] == [
        w.tolist() for w in token_weights(tokens(), SCALE)
    ]


def test_without_discriminator_only_the_reward_remains() -> None:
    alone = token_weights(tokens(credit_T=None, is_credited_T=None), SCALE)
    silent = token_weights(tokens(), replace(SCALE, adversarial_weight=0.0))
    assert alone[0].tolist() == alone[1].tolist() == silent[1].tolist()


def test_counts_of_nothing_are_zero_not_nan() -> None:
    nobody = torch.zeros_like(REWARDED)
    nothing = tokens(is_rewarded_T=nobody, is_credited_T=nobody, is_penalised_T=nobody)
    empty = replace(SCALE, num_rewarded=0, num_credited=0, num_penalised=0)
    assert token_weights(nothing, empty)[1].tolist() == [0.0] * 6
    assert unified_objective(None, nothing, empty).loss == 0.0


def test_importance_weights_multiply_both_parts() -> None:
    sampled = LOGPROBS - torch.tensor([0.1, 5.0, 0.0, -0.5, 0.0, 0.0], dtype=torch.float64)
    plain = token_weights(tokens(), SCALE)
    weighed = token_weights(tokens(sampling_logprobs_T=sampled), replace(SCALE, importance_cap=2.0))
    factors = torch.tensor([0.1, 0.0, 0.0, -0.5, 0.0, 0.0], dtype=torch.float64).exp()
    factors[1] = 2.0
    for one, other in zip(plain, weighed, strict=True):
        assert_close(other, one * factors)


def expected_terms() -> dict[str, float]:
    rewards, weights = token_weights(tokens(), SCALE)
    log_ratios = (REF - LOGPROBS)[PENALISED]
    kl = (log_ratios.exp() - 1 - log_ratios).sum().item()
    return {
        "sft": 0.3 / 5 * (0.7 + 0.3),
        "grpo": -rewards.sum().item(),
        "adversarial": -(weights - rewards).sum().item(),
        "kl": 0.05 / 5 * kl,
    }


def test_loss_terms_and_sums_by_hand() -> None:
    found = unified_objective(EXPERT, tokens(), SCALE)
    terms = expected_terms()
    assert list(found.terms) == list(terms)
    for name, value in terms.items():
        assert_close(found.terms[name], value)
    assert_close(found.loss, sum(terms.values()))
    rewards, weights = token_weights(tokens(), SCALE)
    sums = {
        "loss": sum(terms.values()),
        "sft": 1.0,
        "phi": 2.0,
        "grpo": -(1.0 - 2.0 + 3.0 + 0.5),
        "adversarial": -(0.1 + 0.2 - 0.4 + 7.0 - 0.3),
        "kl": terms["kl"] * 5 / 0.05,
        "ratio": 5.0,
        "entropy": 1.0 + 2.5 + 0.5 + 3.0 + 0.2,
        "gap": 0.0,
        "clipped": 0.0,
        "weighted": 6.0,
        "grpo_weights": rewards.abs().sum().item(),
        "adversarial_weights": (weights - rewards).abs().sum().item(),
    }
    assert set(found.sums) == set(sums)
    for name, value in sums.items():
        assert_close(found.sums[name], value)
        assert not found.sums[name].requires_grad


def test_gradient_by_hand() -> None:
    logprobs = LOGPROBS.clone().requires_grad_()
    expert = EXPERT.clone().requires_grad_()
    unified_objective(expert, tokens(logprobs), SCALE).loss.backward()
    assert expert.grad is not None
    assert logprobs.grad is not None
    assert_close(expert.grad, [-0.3 / 5] * 2)
    kl = 0.05 / 5 * (1 - (REF - LOGPROBS).exp()) * PENALISED
    assert_close(logprobs.grad, -token_weights(tokens(), SCALE)[1] + kl)


def test_terms_that_do_not_act_are_absent() -> None:
    assert list(unified_objective(EXPERT, None, SCALE).terms) == ["sft"]
    silent = replace(SCALE, adversarial_weight=0.0)
    assert list(unified_objective(None, tokens(ref_logprobs_T=None), silent).terms) == ["grpo"]
    unrewarded = replace(SCALE, grpo_weight=0.0)
    assert list(unified_objective(None, tokens(), unrewarded).terms) == ["adversarial", "kl"]


RATIOS = torch.tensor([1.25, 0.75, 1.0, 1.6, 4.0, 0.5], dtype=torch.float64)
WEIGHTS = torch.tensor([0.2, -0.1, 0.0, 0.4, -0.3, 0.5], dtype=torch.float64)
BOUNDS = {"clip_low": 0.1, "clip_high": 0.3}


def clipped_tokens(**changes: Any) -> tuple[RolloutTokens, Scale]:
    """Tokens whose w_t are `WEIGHTS` and whose ratios are `RATIOS`."""
    old = torch.full_like(RATIOS, -2.0)
    made = tokens(
        (old + RATIOS.log()).requires_grad_(),
        old_logprobs_T=old,
        reward_advantages_T=WEIGHTS,
        is_rewarded_T=torch.ones_like(REWARDED),
        credit_T=None,
        is_credited_T=None,
        ref_logprobs_T=None,
        sequence_index_T=torch.tensor([0, 0, 0, 1, 1, 1]),
        num_sequences=2,
    )
    scale = replace(SCALE, grpo_weight=1.0, num_rewarded=1, **BOUNDS, **changes)
    return made, scale


def test_each_side_is_clipped_at_its_own_bound() -> None:
    made, scale = clipped_tokens()
    found = unified_objective(None, made, scale)
    # within 1.3; below .9 with a negative weight; none; above 1.3; above 3 with a negative weight; free
    values = [1.25 * 0.2, 0.9 * -0.1, 0.0, 1.3 * 0.4, 3.0 * -0.3, 0.5 * 0.5]
    assert_close(found.loss, -sum(values))
    found.loss.backward()
    assert_close(made.logprobs_T.grad, [-0.25, 0.0, 0.0, 0.0, 0.0, -0.25])
    assert found.sums["clipped"] == 3
    assert found.sums["weighted"] == 5


def test_gspo_clips_whole_completions() -> None:
    """Geometric means of the ratios: .979 is free, 1.474 is above the upper bound for a positive weight."""
    made, scale = clipped_tokens(policy_gradient="gspo")
    first, second = RATIOS[:3].log().mean().exp().item(), RATIOS[3:].log().mean().exp().item()
    assert 0.9 < first < 1.3 < second < 3.0
    found = unified_objective(None, made, scale)
    values = [first * 0.2, first * -0.1, 0.0, 1.3 * 0.4, second * -0.3, 1.3 * 0.5]
    assert_close(found.loss, -sum(values))
    found.loss.backward()
    assert_close(made.logprobs_T.grad, [-first * 0.2, first * 0.1, 0.0, 0.0, second * 0.3, 0.0])
    assert found.sums["clipped"] == 2


def test_cispo_clips_the_ratio_and_keeps_every_gradient() -> None:
    made, scale = clipped_tokens(policy_gradient="cispo")
    found = unified_objective(None, made, scale)
    found.loss.backward()
    ratios = [1.25, 0.9, 1.0, 1.3, 1.3, 0.9]
    assert_close(
        made.logprobs_T.grad, [-r * w for r, w in zip(ratios, WEIGHTS.tolist(), strict=True)]
    )


@pytest.mark.parametrize("policy_gradient", ["ppo", "cispo"])
def test_micro_batches_sum_to_the_step(policy_gradient: Any) -> None:
    scale = replace(SCALE, policy_gradient=policy_gradient)
    whole = unified_objective(EXPERT, tokens(), scale)
    parts = [
        unified_objective(
            EXPERT[i : i + 1] if i < 2 else None, part(tokens(), slice(i, i + 1)), scale
        )
        for i in range(6)
    ]
    assert_close(sum(p.loss.item() for p in parts), whole.loss.item())
    for name, value in whole.sums.items():
        assert_close(sum(p.sums[name].item() for p in parts if name in p.sums), value)


def test_a_wide_clip_is_no_error_and_leaves_the_dual_clip_out() -> None:
    assert Scale(clip_high=0.28).dual_clip == 3.0
    assert Scale(clip_high=4.0).dual_clip is None
