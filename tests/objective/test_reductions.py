import torch
from exact import assert_close

from uniapl.objective.reductions import (
    group_correlation,
    group_mean,
    group_std,
    mean_group_std,
    sequence_mean,
    sequence_sum,
)

ALL = torch.ones(1, 3, dtype=torch.bool)


def test_sequence_sum_and_mean_take_each_sequences_own_tokens() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 10.0])
    index = torch.tensor([0, 2, 2, 0])
    assert_close(sequence_sum(values, index, 3), [11.0, 0.0, 6.0])
    assert_close(sequence_mean(values, index, 3), [5.5, 0.0, 3.0])


def test_sequence_mean_passes_gradient() -> None:
    values = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    sequence_mean(values, torch.tensor([0, 1, 1]), 2)[1].backward()
    assert_close(values.grad, [0.0, 0.5, 0.5])


def test_group_mean_and_std_by_hand() -> None:
    values = torch.tensor([[1.0, 2.0, 6.0]])
    assert_close(group_mean(values, ALL), [[3.0]])
    # (4 + 1 + 9) / 2 = 7
    assert_close(group_std(values, ALL), [[7.0**0.5]])


def test_uncounted_members_have_no_influence() -> None:
    values = torch.tensor([[1.0, float("inf"), 3.0], [float("nan"), 7.0, 5.0]])
    is_counted = torch.tensor([[True, False, True], [False, True, False]])
    assert_close(group_mean(values, is_counted), [[2.0], [7.0]])
    # (1 + 1) / 1 = 2; a group of one has no deviation
    assert_close(group_std(values, is_counted), [[2.0**0.5], [0.0]])


def test_empty_groups_are_zero() -> None:
    values, nobody = torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool)
    assert_close(group_mean(values, nobody), [[0.0]])
    assert_close(group_std(values, nobody), [[0.0]])


def test_mean_group_std_leaves_out_groups_without_one() -> None:
    values = torch.tensor([[1.0, 3.0], [5.0, 9.0], [2.0, 8.0]])
    is_counted = torch.tensor([[True, True], [True, False], [False, False]])
    std = mean_group_std(values, is_counted)
    assert std is not None
    assert_close(std, 2.0**0.5)
    assert mean_group_std(values, torch.zeros_like(is_counted)) is None


def test_correlation_is_inside_groups() -> None:
    # between the groups both rise, inside them one falls as the other rises
    first = torch.tensor([[1.0, 2.0], [11.0, 12.0]])
    second = torch.tensor([[5.0, 4.0], [9.0, 8.0]])
    everybody = torch.ones(2, 2, dtype=torch.bool)
    assert_close(group_correlation(first, second, everybody), -1.0)
    assert_close(group_correlation(first, 3 * first, everybody), 1.0)


def test_correlation_by_hand() -> None:
    first, second = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.0, 3.0, 3.0]])
    # centred -1 0 1 and -2 1 1: 3 / sqrt(2 · 6)
    assert_close(group_correlation(first, second, ALL), 3 / 12**0.5)


def test_without_variation_there_is_no_correlation() -> None:
    assert group_correlation(torch.ones(1, 3), torch.arange(3.0)[None], ALL) is None


def test_correlation_leaves_uncounted_members_out() -> None:
    first, second = torch.tensor([[0.0, 1.0, 99.0]]), torch.tensor([[0.0, 1.0, -99.0]])
    assert_close(group_correlation(first, second, torch.tensor([[True, True, False]])), 1.0)
