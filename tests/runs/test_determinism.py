"""What a run asks of torch, and that it gives it back."""

import torch
from torch.utils import deterministic

from uniapl.runs.run import _deterministic


def test_algorithms_are_deterministic_and_new_memory_is_not_filled() -> None:
    def settings() -> tuple[bool, bool, bool]:
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            deterministic.fill_uninitialized_memory,
        )

    before = settings()
    with _deterministic():
        assert settings() == (True, True, False)
    assert settings() == before
