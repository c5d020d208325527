import pytest
import torch
from exact import assert_close

from uniapl.objective.advantages import STD_EPSILON, reward_advantages, zero_std_fraction


def everybody(rewards: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(rewards, dtype=torch.bool)


def test_group_scaled_by_hand() -> None:
    rewards = torch.tensor([[0.0, 1.0, 2.0]])
    # mean 1, std sqrt((1 + 0 + 1) / 2) = 1
    expected = [[-1 / 1.0001, 0.0, 1 / 1.0001]]
    assert_close(reward_advantages(rewards, everybody(rewards)), expected)


def test_groups_do_not_mix() -> None:
    rewards = torch.tensor([[0.0, 2.0], [10.0, 14.0]])
    expected = [
        [-1 / (2**0.5 + STD_EPSILON), 1 / (2**0.5 + STD_EPSILON)],
        [-2 / (8**0.5 + STD_EPSILON), 2 / (8**0.5 + STD_EPSILON)],
    ]
    assert_close(reward_advantages(rewards, everybody(rewards)), expected)


def test_unscaled_and_batch_scaled_are_centred_in_the_group() -> None:
    rewards = torch.tensor([[0.0, 2.0], [1.0, 5.0]])
    centred = torch.tensor([[-1.0, 1.0], [-2.0, 2.0]])
    assert_close(reward_advantages(rewards, everybody(rewards), "none"), centred)
    # all four: mean 2, squares 4 + 0 + 1 + 9 = 14, over n - 1 = 3
    batch_std = (14 / 3) ** 0.5
    expected = centred / (batch_std + STD_EPSILON)
    assert_close(reward_advantages(rewards, everybody(rewards), "batch"), expected)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("group_size", [2, 3, 5, 7, 8, 16])
@pytest.mark.parametrize("reward", [0.0, 0.1, 1 / 3, 0.7, -1e-3, 1e6 / 3])
def test_equal_rewards_give_exactly_zero(
    reward: float, group_size: int, dtype: torch.dtype, scale: str
) -> None:
    rewards = torch.full((1, group_size), reward, dtype=dtype)
    other = torch.arange(group_size, dtype=dtype)[None]
    both = torch.cat([rewards, other])
    advantages = reward_advantages(both, everybody(both), scale)  # type: ignore[arg-type]
    assert advantages[0].tolist() == [0.0] * group_size
    assert advantages[1].abs().max() > 0


def test_equal_rewards_among_those_that_count() -> None:
    rewards = torch.tensor([[0.1, 0.1, 0.1, 9.0]])
    has_reward = torch.tensor([[True, True, True, False]])
    assert reward_advantages(rewards, has_reward).tolist() == [[0.0] * 4]


def test_missing_rewards_are_left_out_of_mean_and_std() -> None:
    rewards = torch.tensor([[1.0, 0.0, 3.0]])
    has_reward = torch.tensor([[True, False, True]])
    # mean 2, std sqrt((1 + 1) / 1)
    scaled = 1 / (2**0.5 + STD_EPSILON)
    assert_close(reward_advantages(rewards, has_reward), [[-scaled, 0.0, scaled]])


def test_missing_rewards_are_left_out_of_the_batch_std() -> None:
    rewards = torch.tensor([[1.0, 0.0, 3.0], [0.0, 0.0, 50.0]])
    has_reward = torch.tensor([[True, False, True], [False, False, False]])
    scaled = 1 / (2**0.5 + STD_EPSILON)
    expected = [[-scaled, 0.0, scaled], [0.0, 0.0, 0.0]]
    assert_close(reward_advantages(rewards, has_reward, "batch"), expected)


@pytest.mark.parametrize("has_reward", [[False] * 3, [False, True, False]])
def test_none_or_one_reward_gives_exactly_zero(has_reward: list[bool]) -> None:
    rewards = torch.tensor([[5.0, 1 / 3, 7.0]])
    assert reward_advantages(rewards, torch.tensor([has_reward])).tolist() == [[0.0] * 3]


def test_zero_std_fraction_counts_rewarded_groups() -> None:
    rewards = torch.tensor([[1.0, 1.0], [1.0, 2.0], [3.0, 4.0], [0.0, 0.0]])
    has_reward = torch.tensor([[True, True], [True, True], [True, False], [False, False]])
    # group 0 equal, 1 not, 2 has one reward only (equal), 3 has none and does not count
    assert zero_std_fraction(rewards, has_reward) == pytest.approx(2 / 3)
    assert zero_std_fraction(rewards, torch.zeros_like(has_reward)) == 0.0
