"""At a learning rate of 1e-6 bfloat16 weights stay as they are; float32 ones under bfloat16 forwards learn."""

import pytest
import torch
from tiny import tiny_model
from torch import Tensor

from uniapl.models.adapters import LoraShape
from uniapl.models.language_model import LanguageModel, store_weights
from uniapl.models.packing import TokenSequence, pack

LEARNING_RATE = 1e-6
STEPS = 3


def policy(dtype: torch.dtype) -> LanguageModel:
    return LanguageModel(tiny_model(), dtype, 7)


def changes(model: LanguageModel) -> Tensor:
    """What a few steps of AdamW change in every weight that learns."""
    (packed,) = pack([TokenSequence((5, 6), (7, 8, 4)), TokenSequence((9,), (10, 4))], 100)
    learning = model.trainable_parameters()
    before = [p.detach().clone() for p in learning]
    optimizer = torch.optim.AdamW(learning, lr=LEARNING_RATE, weight_decay=0.0)
    for _ in range(STEPS):
        (-model.logprobs(packed).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    moves = [(p.detach() - old).flatten() for p, old in zip(learning, before, strict=True)]
    return torch.cat(moves).float()


def test_bfloat16_forwards_change_float32_weights_as_float32_forwards_do() -> None:
    exact, half = changes(policy(torch.float32)), changes(policy(torch.bfloat16))
    moves = exact.abs() > 0.5 * STEPS * LEARNING_RATE  # else the gradient changed its sign
    assert moves.float().mean() > 0.5
    # not all: where few terms cancel, some CPUs' bfloat16 products leave a gradient of exactly 0
    assert (half[moves] != 0).float().mean() > 0.999
    same_direction = (exact[moves].sign() == half[moves].sign()).float().mean()
    assert same_direction > 0.95
    torch.testing.assert_close(
        half[moves].abs().mean(), exact[moves].abs().mean(), rtol=0.1, atol=0
    )


def test_bfloat16_weights_would_lose_the_same_update() -> None:
    """Why `model.dtype: bfloat16` keeps float32 weights: half a unit in the last place of 0.1 is 2e-4."""
    lost = policy(torch.bfloat16)
    store_weights(lost.model, torch.bfloat16)
    exact = changes(policy(torch.float32))
    share = (changes(lost) != 0).float().mean() / (exact != 0).float().mean()
    assert share < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_learn_on_frozen_weights_of_either_type(dtype: torch.dtype) -> None:
    plain = policy(dtype)
    store_weights(plain.model, dtype)
    adapter = plain.with_adapter("policy", LoraShape(2, 4.0))
    moves = changes(adapter)
    # A gets no gradient before B has moved, so a part of it stands still for a step
    assert (moves != 0).float().mean() > 0.5
    assert moves.abs().max() <= STEPS * LEARNING_RATE * 1.1
