import pytest
import torch
from exact import assert_close

from uniapl.errors import InputError
from uniapl.objective.advantages import (
    STD_EPSILON,
    constant_length_count,
    has_signal,
    overlong_penalty,
    reward_advantages,
    zero_std_fraction,
)


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
    assert zero_std_fraction(rewards, torch.zeros_like(has_reward)) is None


# equal, different, different among those with a reward, one reward only, no reward, equal among those with one
REWARDS = torch.tensor(
    [[1, 1, 1], [0, 0, 1], [2, 9, 3], [4, 5, 6], [7, 8, 9], [0.1, 0.1, 9]], dtype=torch.float64
)
HAS_REWARD = torch.tensor(
    [
        [True, True, True],
        [True, True, True],
        [True, False, True],
        [False, True, False],
        [False, False, False],
        [True, True, False],
    ]
)


def test_signal_is_a_sibling_with_another_reward() -> None:
    expected = [[False] * 3, [True] * 3, [True, False, True], *[[False] * 3] * 3]
    assert has_signal(REWARDS, HAS_REWARD).tolist() == expected


def test_rewards_that_do_not_count_say_nothing_of_the_signal() -> None:
    wild = torch.where(HAS_REWARD, REWARDS, float("nan"))
    assert has_signal(wild, HAS_REWARD).tolist() == has_signal(REWARDS, HAS_REWARD).tolist()


def test_groups_without_signal_have_no_advantage_anyway() -> None:
    """Leaving them out changes a count and nothing else: of 11 rewards, 5 have a signal."""
    signal = has_signal(REWARDS, HAS_REWARD)
    assert (int(HAS_REWARD.sum()), int(signal.sum())) == (11, 5)
    advantages = reward_advantages(REWARDS, HAS_REWARD)
    assert not advantages[~signal].any()


def test_overlong_penalty_by_hand() -> None:
    lengths = [0, 5, 6, 7, 8, 9, 10, 11, 99]
    # max 10, buffer 4: from 6 to 10 by a quarter per token
    expected = [0.0, 0.0, 0.0, -0.25, -0.5, -0.75, -1.0, -1.0, -1.0]
    assert overlong_penalty(lengths, 10, 4).tolist() == expected
    table = torch.tensor(lengths).reshape(3, 3)
    assert overlong_penalty(table, 10, 4).tolist() == torch.tensor(expected).reshape(3, 3).tolist()


def test_overlong_penalty_has_no_negative_zero_and_works_over_the_whole_length() -> None:
    assert str(overlong_penalty([0, 1], 10, 4).tolist()) == "[0.0, 0.0]"
    assert_close(overlong_penalty([0, 1, 5, 10], 10, 10), [0.0, -0.1, -0.5, -1.0])
    assert overlong_penalty([9, 10], 10, 1).tolist() == [0.0, -1.0]


@pytest.mark.parametrize("buffer_length", [0, -1, 11])
def test_an_impossible_overlong_buffer_is_refused(buffer_length: int) -> None:
    with pytest.raises(
        InputError, match=rf"from 1 to max_length \(10\) tokens, got {buffer_length}"
    ):
        overlong_penalty([1], 10, buffer_length)


def test_constant_length_counts_completions_not_tokens() -> None:
    count = constant_length_count(HAS_REWARD, 256)
    assert (count.item(), count.dtype) == (11 * 256, torch.int64)
    # parts of a step sum to it, also where one has nothing rewarded
    parts = [constant_length_count(HAS_REWARD[i : i + 1], 256).item() for i in range(6)]
    assert parts == [768, 768, 512, 256, 0, 512]
    assert sum(parts) == count.item()


@pytest.mark.parametrize("constant_length", [0, -256])
def test_an_impossible_constant_length_is_refused(constant_length: int) -> None:
    with pytest.raises(InputError, match=f"must be at least 1 token, got {constant_length}"):
        constant_length_count(HAS_REWARD, constant_length)
