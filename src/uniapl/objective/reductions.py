"""Sums and means over the tokens of each sequence and over the members of each group."""

import torch
from torch import Tensor


def sequence_sum(values: Tensor, sequence_index: Tensor, num_sequences: int) -> Tensor:
    """Sum `values` [tokens] over each sequence's tokens, to [sequences]."""
    return values.new_zeros(num_sequences).index_add(0, sequence_index, values)


def sequence_mean(values: Tensor, sequence_index: Tensor, num_sequences: int) -> Tensor:
    """Mean of `values` [tokens] over each sequence's tokens, to [sequences]; 0 without tokens."""
    counts = sequence_sum(torch.ones_like(values), sequence_index, num_sequences)
    return sequence_sum(values, sequence_index, num_sequences) / counts.clamp(min=1)


def group_mean(values: Tensor, is_counted: Tensor) -> Tensor:
    """Mean over the counted members, [groups, group_size] to [groups, 1]; 0 where none counts."""
    total = values.masked_fill(~is_counted, 0).sum(1, keepdim=True)
    return total / is_counted.sum(1, keepdim=True).clamp(min=1)


def group_std(values: Tensor, is_counted: Tensor) -> Tensor:
    """Sample standard deviation over the counted members, to [groups, 1]; 0 for fewer than two."""
    centred = (values - group_mean(values, is_counted)).masked_fill(~is_counted, 0)
    degrees = is_counted.sum(1, keepdim=True) - 1
    variance = centred.square().sum(1, keepdim=True) / degrees.clamp(min=1)
    return variance.sqrt().masked_fill(degrees < 1, 0)


def mean_group_std(values: Tensor, is_counted: Tensor) -> float | None:
    """Average deviation of the groups that have one (two counted members); None if there is no such group."""
    has_std = is_counted.sum(1) > 1
    return group_std(values, is_counted)[has_std].mean().item() if has_std.any() else None


def group_correlation(first: Tensor, second: Tensor, is_counted: Tensor) -> float:
    """Correlation inside groups: both centred in their group, pooled; 0 if either does not vary."""
    a = (first - group_mean(first, is_counted)).masked_fill(~is_counted, 0)
    b = (second - group_mean(second, is_counted)).masked_fill(~is_counted, 0)
    scale = (a.square().sum() * b.square().sum()).sqrt()
    return ((a * b).sum() / scale).item() if scale > 0 else 0.0
