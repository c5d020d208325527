import gc
import weakref

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from uniapl.cpu.shared_prompts import PROMPTS, PromptRows
from uniapl.rollout.cache import RoomyLayer


def states(tokens: int, rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, 2, tokens, 4)


@pytest.mark.parametrize("growth_tokens", [1, 3, 256])
def test_holds_what_a_concatenating_layer_holds(growth_tokens: int) -> None:
    roomy, plain = RoomyLayer(), DynamicLayer()
    roomy.growth_tokens = growth_tokens
    for tokens in (5, 1, 1, 2, 1, 9, 1):
        keys, values = states(tokens), states(tokens)
        held, expected = roomy.update(keys, values), plain.update(keys, values)
        assert torch.equal(held[0], expected[0])
        assert torch.equal(held[1], expected[1])
        assert roomy.get_seq_length() == plain.get_seq_length()


def test_does_not_copy_while_there_is_room() -> None:
    layer = RoomyLayer()
    layer.update(states(5), states(5))
    layer.share(torch.tensor([0, 1, 2]), room=3)
    before = layer.update(states(1), states(1))[0].data_ptr()
    assert layer.update(states(2), states(2))[0].data_ptr() == before
    assert layer.update(states(1), states(1))[0].data_ptr() != before


def test_shared_rows_are_copies() -> None:
    layer = RoomyLayer()
    keys, values = layer.update(states(5), states(5))
    keys, values = keys.clone(), values.clone()
    rows = torch.tensor([2, 0, 0, 1, 2])
    layer.share(rows, room=2)
    new_keys, new_values = states(1, rows=5), states(1, rows=5)
    held = layer.update(new_keys, new_values)
    assert torch.equal(held[0], torch.cat([keys[rows], new_keys], dim=2))
    assert torch.equal(held[1], torch.cat([values[rows], new_values], dim=2))


def test_moved_rows_fill_the_free_places() -> None:
    layer = RoomyLayer()
    keys, values = (held.clone() for held in layer.update(states(4, rows=5), states(4, rows=5)))
    layer.share(torch.arange(5), room=2)
    layer.move(sources=torch.tensor([4]), targets=torch.tensor([1]), num_rows=3)
    new = states(1)
    held = layer.update(new, new)
    assert torch.equal(held[0], torch.cat([keys[[0, 4, 2]], new], dim=2))
    assert torch.equal(held[1], torch.cat([values[[0, 4, 2]], new], dim=2))


@pytest.mark.parametrize("can_be_read", [None, False, True])
def test_prompts_stay_in_one_place_where_attention_can_read_them(can_be_read: bool | None) -> None:
    layer = RoomyLayer()
    keys, values = layer.update(states(5), states(5))
    getattr(keys, PROMPTS).can_be_read = can_be_read
    rows = torch.tensor([2, 0, 0, 1, 2, 2])
    shared = PromptRows(torch.tensor([6, 0, 1, 3, 7, 8]), group_size=3, padding=None)
    layer.share(rows, room=7, shared=shared)
    new = states(1, rows=6)
    held, _ = layer.update(new, new)
    prompts = getattr(held, PROMPTS)
    assert layer.get_seq_length() == 6
    element = 2 * 4 * 4  # heads, width, bytes
    if can_be_read:
        assert torch.equal(held, new)
        assert torch.equal(prompts.keys, keys)
        assert torch.equal(prompts.values, values)
        assert layer.num_bytes == 2 * (6 * 7 + 3 * 5) * element
    else:
        assert torch.equal(held, torch.cat([keys[rows], new], dim=2))
        assert prompts.keys is None
        assert layer.num_bytes == 2 * 6 * (5 + 7) * element


def test_a_cache_with_shared_prompts_goes_at_once() -> None:
    """Not when cycles are collected next: by then another one may have been made."""
    layer = RoomyLayer()
    keys, values = layer.update(states(5), states(5))
    getattr(keys, PROMPTS).can_be_read = True
    layer.share(torch.arange(3), room=2, shared=PromptRows(torch.arange(3), 1, None))
    prompts = weakref.ref(getattr(layer.update(states(1), states(1))[0], PROMPTS).keys)
    gc.disable()
    try:
        del layer, keys, values
        assert prompts() is None
    finally:
        gc.enable()
