"""Sums and means over the tokens of each sequence, over all tokens, and over the members of each group.

Results keep the units of what they reduce. No function raises; where there is nothing to reduce, each says what it
returns.
"""

import torch
from torch import Tensor


def token_mean(values_T: Tensor, is_counted_T: Tensor) -> float | None:
    """Return the mean over counted tokens, each with the same weight whatever its completion's length.

    Args:
        values_T: [T], of any unit.
        is_counted_T: Tokens that count, [T].

    Returns:
        A number, summed in float64; None if no token counts.
    """
    counted = values_T.detach()[is_counted_T]
    return counted.double().mean().item() if counted.numel() else None


def sequence_sum(values: Tensor, sequence_index: Tensor, num_sequences: int) -> Tensor:
    """Return the sum over each sequence's tokens, with gradient.

    Args:
        values: [T], of any unit.
        sequence_index: Sequence of each token, [T], from 0 to `num_sequences` - 1, in any order.
        num_sequences: S, the number of sequences.

    Returns:
        [S]; 0 for a sequence without tokens.
    """
    return values.new_zeros(num_sequences).index_add(0, sequence_index, values)


def sequence_mean(values: Tensor, sequence_index: Tensor, num_sequences: int) -> Tensor:
    """Return the mean over each sequence's tokens, with gradient.

    Args:
        values: [T], of any unit.
        sequence_index: Sequence of each token, [T], from 0 to `num_sequences` - 1, in any order.
        num_sequences: S, the number of sequences.

    Returns:
        [S]; 0 for a sequence without tokens.
    """
    counts = sequence_sum(torch.ones_like(values), sequence_index, num_sequences)
    return sequence_sum(values, sequence_index, num_sequences) / counts.clamp(min=1)


def group_mean(values: Tensor, is_counted: Tensor) -> Tensor:
    """Return the mean over each group's counted members.

    Args:
        values: [G, N], of any unit.
        is_counted: Members that count, [G, N].

    Returns:
        [G, 1]; 0 where no member counts.
    """
    total = values.masked_fill(~is_counted, 0).sum(1, keepdim=True)
    return total / is_counted.sum(1, keepdim=True).clamp(min=1)


def group_std(values: Tensor, is_counted: Tensor) -> Tensor:
    """Return the sample standard deviation (over n - 1) of each group's counted members.

    Args:
        values: [G, N], of any unit.
        is_counted: Members that count, [G, N].

    Returns:
        [G, 1]; 0 where fewer than two members count.
    """
    centred = (values - group_mean(values, is_counted)).masked_fill(~is_counted, 0)
    degrees = is_counted.sum(1, keepdim=True) - 1
    variance = centred.square().sum(1, keepdim=True) / degrees.clamp(min=1)
    return variance.sqrt().masked_fill(degrees < 1, 0)


def mean_group_std(values: Tensor, is_counted: Tensor) -> float | None:
    """Return the average of the groups' deviations, over the groups that have one (two counted members).

    Args:
        values: [G, N], of any unit.
        is_counted: Members that count, [G, N].

    Returns:
        A number; None if no group has a deviation.
    """
    has_std = is_counted.sum(1) > 1
    return group_std(values, is_counted)[has_std].mean().item() if has_std.any() else None


def group_correlation(first: Tensor, second: Tensor, is_counted: Tensor) -> float:
    """Return the correlation inside groups: both are centred in their group, then all members are pooled.

    Args:
        first: [G, N], of any unit.
        second: [G, N], of any unit.
        is_counted: Members that count in both, [G, N].

    Returns:
        Pearson's correlation, from -1 to 1; 0 if either does not vary inside any group.
    """
    a = (first - group_mean(first, is_counted)).masked_fill(~is_counted, 0)
    b = (second - group_mean(second, is_counted)).masked_fill(~is_counted, 0)
    scale = (a.square().sum() * b.square().sum()).sqrt()
    return ((a * b).sum() / scale).item() if scale > 0 else 0.0
