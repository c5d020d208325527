"""Sums and means over the tokens of each sequence, over all tokens, and over the members of each group.

Results keep the units of what they reduce. No function raises; where there is nothing to reduce, each says what it
returns.
"""

import torch
from torch import Tensor

ROUNDING = 1e-6
"""Spread inside groups up to which there is none: what equal models differ by in float32."""


def sequence_sum(values_T: Tensor, sequence_index_T: Tensor, num_sequences: int) -> Tensor:
    """Return the sum over each sequence's tokens, with gradient.

    Args:
        values_T: [T], of any unit.
        sequence_index_T: Sequence of each token, [T], from 0 to `num_sequences` - 1, in any order.
        num_sequences: S, the number of sequences.

    Returns:
        [S]; 0 for a sequence without tokens.
    """
    return values_T.new_zeros(num_sequences).index_add(0, sequence_index_T, values_T)


def sequence_mean(values_T: Tensor, sequence_index_T: Tensor, num_sequences: int) -> Tensor:
    """Return the mean over each sequence's tokens, with gradient.

    Args:
        values_T: [T], of any unit.
        sequence_index_T: Sequence of each token, [T], from 0 to `num_sequences` - 1, in any order.
        num_sequences: S, the number of sequences.

    Returns:
        [S]; 0 for a sequence without tokens.
    """
    counts_S = sequence_sum(torch.ones_like(values_T), sequence_index_T, num_sequences)
    return sequence_sum(values_T, sequence_index_T, num_sequences) / counts_S.clamp(min=1)


def group_mean(values_GxN: Tensor, is_counted_GxN: Tensor) -> Tensor:
    """Return the mean over each group's counted members.

    Args:
        values_GxN: [G, N], of any unit.
        is_counted_GxN: Members that count, [G, N].

    Returns:
        [G, 1]; 0 where no member counts.
    """
    total = values_GxN.masked_fill(~is_counted_GxN, 0).sum(1, keepdim=True)
    return total / is_counted_GxN.sum(1, keepdim=True).clamp(min=1)


def group_std(values_GxN: Tensor, is_counted_GxN: Tensor) -> Tensor:
    """Return the sample standard deviation (over n - 1) of each group's counted members.

    Args:
        values_GxN: [G, N], of any unit.
        is_counted_GxN: Members that count, [G, N].

    Returns:
        [G, 1]; 0 where fewer than two members count.
    """
    centred = (values_GxN - group_mean(values_GxN, is_counted_GxN)).masked_fill(~is_counted_GxN, 0)
    degrees = is_counted_GxN.sum(1, keepdim=True) - 1
    variance = centred.square().sum(1, keepdim=True) / degrees.clamp(min=1)
    return variance.sqrt().masked_fill(degrees < 1, 0)


def mean_group_std(values_GxN: Tensor, is_counted_GxN: Tensor) -> float | None:
    """Return the average of the groups' deviations, over the groups that have one (two counted members).

    Args:
        values_GxN: [G, N], of any unit.
        is_counted_GxN: Members that count, [G, N].

    Returns:
        A number; None if no group has a deviation.
    """
    has_std = is_counted_GxN.sum(1) > 1
    return group_std(values_GxN, is_counted_GxN)[has_std].mean().item() if has_std.any() else None


def group_correlation(
    first_GxN: Tensor, second_GxN: Tensor, is_counted_GxN: Tensor
) -> float | None:
    """Return the correlation inside groups: both are centred in their group, then all members are pooled.

    Args:
        first_GxN: [G, N], of any unit.
        second_GxN: [G, N], of any unit.
        is_counted_GxN: Members that count in both, [G, N].

    Returns:
        Pearson's correlation, from -1 to 1; None if either does not vary inside any group by more than rounding.
    """
    a = (first_GxN - group_mean(first_GxN, is_counted_GxN)).masked_fill(~is_counted_GxN, 0)
    b = (second_GxN - group_mean(second_GxN, is_counted_GxN)).masked_fill(~is_counted_GxN, 0)
    scale = (a.square().sum() * b.square().sum()).sqrt()
    varies = min(a.abs().max(), b.abs().max()) > ROUNDING
    return ((a * b).sum() / scale).item() if varies else None
