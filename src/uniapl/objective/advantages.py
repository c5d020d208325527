"""The reward term: A_reward, how much better a rollout's reward is than its group's, and what it is divided by.

A_reward is GRPO's (arXiv 2402.03300). Beside it stand three choices that others made since: leaving out groups without
signal, a penalty on long completions, and a count of tokens that does not depend on the completions' lengths.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from uniapl.errors import InputError
from uniapl.objective.reductions import group_mean, group_std

STD_EPSILON = 1e-4
"""Added to the standard deviation, in reward units."""


def reward_advantages(
    rewards_GxN: Tensor, has_reward_GxN: Tensor, scale: Literal["group", "batch", "none"] = "group"
) -> Tensor:
    """Centre rewards in their group and divide them by a standard deviation.

        A_i = (r_i - mean(r_1 … r_N)) / (std(r_1 … r_N) + STD_EPSILON)      (GRPO, arXiv 2402.03300)

    Args:
        rewards_GxN: r, [G, N], in reward units. Entries without a reward may hold anything.
        has_reward_GxN: False where no reward function had an opinion, [G, N].
        scale: Whose standard deviation (over n - 1) divides: the group's, that of all rewards of the batch, or none
            (Dr. GRPO, arXiv 2503.20783).

    Returns:
        [G, N], in standard deviations, with `scale` "none" in reward units. Exactly 0 where a group's rewards are all
        equal, where a group has one reward, and where there is none.
    """
    centred_GxN = rewards_GxN - group_mean(rewards_GxN, has_reward_GxN)
    is_equal = _all_equal(rewards_GxN, has_reward_GxN)
    if scale == "group":
        centred_GxN = centred_GxN / (group_std(rewards_GxN, has_reward_GxN) + STD_EPSILON)
    elif scale == "batch":
        batch_std = group_std(rewards_GxN.reshape(1, -1), has_reward_GxN.reshape(1, -1))
        centred_GxN = centred_GxN / (batch_std + STD_EPSILON)
    # rounding of the mean must not leave a residue, nor the division blow it up
    return centred_GxN.masked_fill(is_equal | ~has_reward_GxN, 0.0)


def _all_equal(rewards_GxN: Tensor, has_reward_GxN: Tensor) -> Tensor:
    """Say which groups' rewards are all equal, [G, 1]; True also for groups with one reward or none."""
    highest = rewards_GxN.masked_fill(~has_reward_GxN, -float("inf")).amax(1, keepdim=True)
    lowest = rewards_GxN.masked_fill(~has_reward_GxN, float("inf")).amin(1, keepdim=True)
    return highest <= lowest


def zero_std_fraction(rewards_GxN: Tensor, has_reward_GxN: Tensor) -> float | None:
    """Return the share of groups whose rewards are all equal: the reward teaches nothing there.

    Args:
        rewards_GxN: [G, N], in reward units. Entries without a reward may hold anything.
        has_reward_GxN: False where no reward function had an opinion, [G, N].

    Returns:
        A number from 0 to 1: groups with equal rewards over groups with at least one reward. A group with one reward
        counts as equal. None if no group has a reward.
    """
    is_rewarded = has_reward_GxN.any(1)
    if not is_rewarded.any():
        return None
    return _all_equal(rewards_GxN, has_reward_GxN).squeeze(1)[is_rewarded].float().mean().item()


def has_signal(rewards_GxN: Tensor, has_reward_GxN: Tensor) -> Tensor:
    """Say which rollouts have a reward and a sibling with another one.

    The advantage of all other rollouts is 0, but their tokens count in N_reward and so weaken the reward term. If this
    mask takes the place of "is rewarded", it leaves them out of N_reward and changes nothing else. `reward_advantages`
    must still get all rewards, or its "batch" deviation would change too.
    DAPO (arXiv 2503.14476) samples until every group has a signal (dynamic sampling). This does not sample again: the
    step then learns from fewer groups, each with the weight it would have in a batch of such groups only.

    Args:
        rewards_GxN: [G, N], in reward units. Entries without a reward may hold anything.
        has_reward_GxN: False where no reward function had an opinion, [G, N].

    Returns:
        [G, N], bool. False in a group whose rewards are all equal, or that has one reward or none.
    """
    return has_reward_GxN & ~_all_equal(rewards_GxN, has_reward_GxN)


def overlong_penalty(
    lengths: Sequence[int] | Tensor, max_length: int, buffer_length: int
) -> Tensor:
    """Return a reward from -1 to 0 that falls as a completion comes close to the greatest length.

        R(L) = 0                                 for L ≤ max - buffer
               (max - buffer - L) / buffer       for max - buffer < L ≤ max
               -1                                for L > max

    DAPO's soft overlong punishment (arXiv 2503.14476), which adds it to the reward of the task. A truncated completion
    has the greatest length and gets -1.

    Args:
        lengths: L, completion tokens, of any shape.
        max_length: The greatest length, in tokens.
        buffer_length: Tokens before `max_length` over which the penalty grows, from 1 to `max_length`.

    Returns:
        The shape of `lengths`, on its device, in reward units, of torch's default float type.

    Raises:
        InputError: `buffer_length` is below 1 or above `max_length`.
    """
    if not 1 <= buffer_length <= max_length:
        raise InputError(
            f"overlong buffer: must have from 1 to max_length ({max_length}) tokens, "
            f"got {buffer_length}"
        )
    remaining = (max_length - buffer_length) - torch.as_tensor(lengths)
    return (remaining.to(torch.get_default_dtype()) / buffer_length).clamp(-1.0, 0.0)


def constant_length_count(is_rewarded: Tensor, constant_length: int) -> Tensor:
    """Return an N_reward that does not depend on lengths: the number of rewarded completions times a constant.

    With the count of tokens, a batch of long completions gives each token less weight. Here the weight of a token
    depends on the number of completions only.
    Dr. GRPO (arXiv 2503.20783), which divides the sum over tokens by a constant length instead of by the completion's,
    and averages over completions.

    Args:
        is_rewarded: Completions that have a reward and are not masked, [G, N] or any other shape with one entry per
            completion (not per token).
        constant_length: In tokens, at least 1; the greatest length of a completion is the usual choice.

    Returns:
        A whole number as a tensor without dimensions, in tokens. It sums over micro-batches and ranks, so it is 0 if
        nothing is rewarded, and whoever divides by it takes at least 1.

    Raises:
        InputError: `constant_length` is below 1.
    """
    if constant_length < 1:
        raise InputError(
            f"constant length: must be at least 1 token, got {constant_length}; "
            "take the greatest length of a completion"
        )
    return is_rewarded.sum() * constant_length
