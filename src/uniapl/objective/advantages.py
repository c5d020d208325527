"""A_reward: how much better a rollout's reward is than its group's (GRPO, arXiv 2402.03300, eq. 3)."""

from typing import Literal

from torch import Tensor

from uniapl.objective.reductions import group_mean, group_std

STD_EPSILON = 1e-4
"""Added to the standard deviation, in reward units."""


def reward_advantages(
    rewards: Tensor, has_reward: Tensor, scale: Literal["group", "batch", "none"] = "group"
) -> Tensor:
    """Centre rewards in their group and divide by a standard deviation.

    Args:
        rewards: [groups, group_size]; entries without a reward are ignored.
        has_reward: [groups, group_size], False where no reward function had an opinion.
        scale: Whose standard deviation (n - 1) divides: the group's, the whole batch's, or none.

    Returns:
        [groups, group_size]; exactly 0 where a group's rewards are all equal, and where there is none.
    """
    centred = rewards - group_mean(rewards, has_reward)
    is_equal = _all_equal(rewards, has_reward)
    if scale == "group":
        centred = centred / (group_std(rewards, has_reward) + STD_EPSILON)
    elif scale == "batch":
        batch_std = group_std(rewards.reshape(1, -1), has_reward.reshape(1, -1))
        centred = centred / (batch_std + STD_EPSILON)
    # rounding of the mean must not leave a residue, nor the division blow it up
    return centred.masked_fill(is_equal | ~has_reward, 0.0)


def _all_equal(rewards: Tensor, has_reward: Tensor) -> Tensor:
    highest = rewards.masked_fill(~has_reward, -float("inf")).amax(1, keepdim=True)
    lowest = rewards.masked_fill(~has_reward, float("inf")).amin(1, keepdim=True)
    return highest <= lowest


def zero_std_fraction(rewards: Tensor, has_reward: Tensor) -> float:
    """Return the share of groups, among those with a reward, whose rewards are all equal."""
    is_rewarded = has_reward.any(1)
    if not is_rewarded.any():
        return 0.0
    return _all_equal(rewards, has_reward).squeeze(1)[is_rewarded].float().mean().item()
