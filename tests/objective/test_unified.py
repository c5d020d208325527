from typing import Any

import pytest
import torch
from exact import assert_close
from torch import Tensor

from uniapl.objective.unified import (
    ExpertTokens,
    RolloutTokens,
    StepScale,
    term_losses,
    token_weights,
    unified_objective,
)

# six tokens: rewarded, rewarded, without reward, masked with reward, masked without, rewarded
ADVANTAGES = torch.tensor([1.0, -2.0, 9.0, 5.0, 5.0, 0.5], dtype=torch.float64)
CREDIT = torch.tensor([0.1, 0.2, -0.4, 7.0, 7.0, -0.3], dtype=torch.float64)
REWARDED = torch.tensor([True, True, False, True, False, True])
COUNTED = torch.tensor([True, True, True, False, False, True])


def test_weights_by_hand() -> None:
    weights = token_weights(ADVANTAGES, REWARDED, CREDIT, COUNTED, 2.0, 0.5)
    # N_reward = 3 (tokens 0, 1, 5), N_adv = 4 (those and token 2)
    expected = [
        2 * 1.0 / 3 + 0.5 * 0.1 / 4,
        2 * -2.0 / 3 + 0.5 * 0.2 / 4,
        0.5 * -0.4 / 4,
        0.0,
        0.0,
        2 * 0.5 / 3 + 0.5 * -0.3 / 4,
    ]
    assert_close(weights, expected)


def test_masked_and_unrewarded_tokens_are_exactly_zero_whatever_they_hold() -> None:
    wild = torch.where(COUNTED, ADVANTAGES, float("nan"))
    weights = token_weights(
        wild, REWARDED, torch.where(COUNTED, CREDIT, float("inf")), COUNTED, 2, 1
    )
    assert weights[3:5].tolist() == [0.0, 0.0]
    assert weights.isfinite().all()


def test_without_discriminator_only_the_reward_remains() -> None:
    weights = token_weights(ADVANTAGES, REWARDED, None, COUNTED, 1.0, 0.5)
    assert_close(weights, [1 / 3, -2 / 3, 0.0, 0.0, 0.0, 0.5 / 3])
    with_zero = token_weights(ADVANTAGES, REWARDED, CREDIT, COUNTED, 1.0, 0.0)
    assert weights.tolist() == with_zero.tolist()


def test_neither_count_depends_on_the_other_term() -> None:
    """Rollouts without a reward leave the reward's weights alone, and the reverse."""
    alone = token_weights(
        ADVANTAGES[[0, 1, 5]], REWARDED[[0, 1, 5]], None, COUNTED[[0, 1, 5]], 1, 0
    )
    among = token_weights(ADVANTAGES, REWARDED, CREDIT, COUNTED, 1.0, 0.0)
    assert_close(among[[0, 1, 5]], alone)
    nobody = torch.zeros_like(REWARDED)
    rewarded = token_weights(ADVANTAGES, REWARDED, CREDIT, COUNTED, 0.0, 1.0)
    unrewarded = token_weights(ADVANTAGES, nobody, CREDIT, COUNTED, 0.0, 1.0)
    assert rewarded.tolist() == unrewarded.tolist()


def test_everything_masked_is_zero_not_nan() -> None:
    nobody = torch.zeros_like(COUNTED)
    weights = token_weights(ADVANTAGES, REWARDED, CREDIT, nobody, 1.0, 1.0)
    assert weights.tolist() == [0.0] * 6


def scale(**changes: Any) -> StepScale:
    values: dict[str, Any] = {
        "sft_weight": 0.3,
        "kl_coef": 0.05,
        "clip_low": 0.2,
        "clip_high": 0.2,
        "num_sft_tokens": 5,
        "num_rollout_tokens": 4,
        **changes,
    }
    return StepScale(**values)


def rollout_tokens(logprobs: Tensor, **changes: Any) -> RolloutTokens:
    values: dict[str, Any] = {
        "old_logprobs": logprobs.detach(),
        "weights": torch.tensor([0.2, -0.1, 0.0]),
        "is_counted": torch.tensor([True, True, False]),
        "ref_logprobs": torch.tensor([-1.0, -2.0, -3.0]),
        **changes,
    }
    return RolloutTokens(logprobs, **values)


def test_objective_by_hand() -> None:
    logprobs = torch.tensor([-1.0, -2.5, -0.5])
    expert = torch.tensor([-0.7, -0.3])
    # ρ = 1; k3 of the second token: e^0.5 - 1 - 0.5; the third is masked
    k3 = torch.tensor(0.5).exp() - 1.5
    expected = -(0.2 - 0.1) + 0.3 / 5 * (0.7 + 0.3) + 0.05 / 4 * k3
    loss = unified_objective(ExpertTokens(expert), rollout_tokens(logprobs), scale())
    assert_close(loss, expected)


def test_objective_gradient_by_hand() -> None:
    logprobs = torch.tensor([-1.0, -2.5, -0.5], requires_grad=True)
    expert = torch.tensor([-0.7, -0.3], requires_grad=True)
    unified_objective(ExpertTokens(expert), rollout_tokens(logprobs), scale()).backward()
    assert expert.grad is not None
    assert logprobs.grad is not None
    assert_close(expert.grad, [-0.3 / 5] * 2)
    kl = 0.05 / 4 * (1 - torch.tensor(0.5).exp())
    assert_close(logprobs.grad, [-0.2, 0.1 + kl, 0.0])
    assert logprobs.grad[2] == 0.0


def test_terms_by_hand() -> None:
    logprobs = torch.tensor([-1.0, -2.5, -0.5], requires_grad=True)
    expert = ExpertTokens(torch.tensor([-0.7, -0.3]))
    reward_weights = torch.tensor([0.5, -0.1, 0.0])
    rollouts = rollout_tokens(logprobs, reward_weights=reward_weights)
    losses = term_losses(expert, rollouts, scale())
    assert list(losses) == ["sft", "grpo", "adversarial", "kl"]
    assert_close(losses["sft"], 0.3 / 5)
    assert_close(losses["grpo"], -(0.5 - 0.1))
    assert_close(losses["adversarial"], -(-0.3 + 0.0))
    assert_close(losses["kl"], 0.05 / 4 * (torch.tensor(0.5).exp() - 1.5))
    assert_close(sum(losses.values()), unified_objective(expert, rollouts, scale()))
    assert list(term_losses(expert, None, scale())) == ["sft"]
    without_kl = term_losses(None, rollouts, scale(kl_coef=0.0))
    assert list(without_kl) == ["grpo", "adversarial"]


def test_each_side_is_clipped_at_its_own_bound() -> None:
    old = torch.tensor([-2.0, -2.0, -2.0])
    ratios = torch.tensor([1.25, 0.75, 1.0])
    weights = torch.tensor([0.2, -0.1, 0.0])
    rollouts = rollout_tokens(old + ratios.log(), old_logprobs=old, weights=weights)
    # 1.25 is within 1 + 0.3, 0.75 below 1 - 0.1
    loss = unified_objective(None, rollouts, scale(kl_coef=0.0, clip_low=0.1, clip_high=0.3))
    assert_close(loss, -(1.25 * 0.2 - 0.9 * 0.1))


@pytest.mark.parametrize("part", ["expert", "rollouts"])
def test_one_part_alone(part: str) -> None:
    expert = ExpertTokens(torch.tensor([-0.7, -0.3]))
    rollouts = rollout_tokens(torch.tensor([-1.0, -2.5, -0.5]), ref_logprobs=None)
    if part == "expert":
        assert_close(unified_objective(expert, None, scale()), 0.06)
    else:
        assert_close(unified_objective(None, rollouts, scale()), -0.1)


def test_no_kl_without_coefficient() -> None:
    rollouts = rollout_tokens(torch.tensor([-1.0, -2.5, -0.5]))
    assert_close(unified_objective(None, rollouts, scale(kl_coef=0.0)), -0.1)


def test_micro_batches_sum_to_the_step() -> None:
    logprobs = torch.tensor([-1.0, -2.5, -0.5])
    expert = torch.tensor([-0.7, -0.3])
    whole = unified_objective(ExpertTokens(expert), rollout_tokens(logprobs), scale())
    parts = [
        unified_objective(
            ExpertTokens(expert[i : i + 1]) if i < 2 else None,
            RolloutTokens(
                *(
                    getattr(rollout_tokens(logprobs), name)[i : i + 1]
                    for name in (
                        "logprobs",
                        "old_logprobs",
                        "weights",
                        "is_counted",
                        "ref_logprobs",
                    )
                )
            ),
            scale(),
        )
        for i in range(3)
    ]
    assert_close(sum(parts), whole)
