"""Attention of single tokens in bfloat16 on a CPU, registered with transformers under the name `uniapl_decoding`.

There torch's kernel for grouped queries takes four times as long as the same attention with a group's heads laid
out as queries of one head: one token sees the same keys with all of them.

Most of what is read from memory is the prompt's keys and values, once per row. Rows of one prompt read them together
here: their queries are laid out as those of one row. The softmax over the prompt and the one over a row's own tokens
are then joined by their normalisers. With a_p, a_o what each attends to and l_p, l_o the logarithms of their sums of
exponentials:

    attended = σ(l_p − l_o) a_p + σ(l_o − l_p) a_o
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from uniapl.cpu import is_on
from uniapl.cpu.shared_prompts import PROMPTS, SharedPrompts

NAME = "uniapl_decoding"


def decoding_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' `sdpa` does.

    Args:
        module: The layer that attends.
        query: [rows, heads, tokens, width].
        key: [rows, key heads, keys, width], with the layer's `SharedPrompts` as an attribute where rows share prompts.
        value: As `key`.
        attention_mask: As transformers' `sdpa` takes it; None: a token sees all keys.
        scaling: Of the scores; None: one over the square root of the width.
        kwargs: What else transformers hands to `sdpa`.

    Returns:
        [rows, tokens, heads, width], and no attention weights.
    """
    rows, num_heads, num_tokens, _ = query.shape
    is_shared = attention_mask is None or attention_mask.shape[1] == 1
    has_extras = any(kwargs.get(name) is not None for name in ("softcap", "position_bias"))
    prompts: SharedPrompts | None = getattr(key, PROMPTS, None)
    if prompts is not None and getattr(value, PROMPTS, None) is not prompts:
        # the model attends to something that it makes of the cached values (DiffLlama)
        prompts.can_be_read, prompts = False, None
    if prompts is not None and prompts.keys is not None:
        return _attend_to_both(query, key, value, prompts, scaling).unsqueeze(1), None
    if prompts is not None:
        is_plain = is_shared and not has_extras and kwargs.get("sliding_window") is None
        can_be_read = is_plain and _sees_everything(module) and _suits_flash(query, key, value)
        prompts.can_be_read = can_be_read and prompts.can_be_read is not False
    if num_tokens > 1 or num_heads == key.shape[1] or not is_shared or has_extras:
        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return result
    attended = nn.functional.scaled_dot_product_attention(
        query.reshape(rows, key.shape[1], -1, query.shape[-1]),
        key,
        value,
        attn_mask=attention_mask,
        scale=scaling,
    )
    return attended.reshape(rows, 1, num_heads, -1), None


def _sees_everything(module: nn.Module) -> bool:
    """Whether no window hides old tokens; a mask that does need not show it before the prompt is long."""
    config = getattr(module, "config", None)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return bool(kinds[module.layer_idx] == "full_attention")  # type: ignore[index]
    return config is not None and getattr(config, "sliding_window", None) is None


def _suits_flash(*states: Tensor) -> bool:
    """Whether torch's kernel takes tensors of these widths and strides."""
    return len({each.shape[-1] for each in states}) == 1 and all(s.stride(-1) == 1 for s in states)


def _attend_to_both(
    query: Tensor, key: Tensor, value: Tensor, prompts: SharedPrompts, scaling: float | None
) -> Tensor:
    """Return what one token of each row attends to in the row's own tokens and its prompt, [rows, heads, width].

    Args:
        query: [rows, heads, 1, width].
        key: Of the row's own tokens, [rows, key heads, keys, width].
        value: As `key`.
        prompts: Keys and values of the prompts, and which row continues which.
        scaling: Of the scores.
    """
    rows, (num_rows, num_kept, _, width) = prompts.rows, key.shape
    assert rows is not None
    assert prompts.keys is not None
    assert prompts.values is not None
    num_prompts, size = len(prompts.keys), rows.group_size
    query = query.to(key.dtype).reshape(num_rows, num_kept, -1, width)
    own, own_normaliser = _flash(query, key, value, None, scaling)

    # A place whose row has left the batch asks with zeros, and nothing reads its answer.
    placed = query.new_zeros(num_prompts * size, *query.shape[1:])
    placed.index_copy_(0, rows.places, query)
    together = placed.unflatten(0, (num_prompts, size)).transpose(1, 2).flatten(2, 3)
    found = _flash(together, prompts.keys, prompts.values, rows.padding, scaling)
    shared, shared_normaliser = (
        each.unflatten(2, (size, -1)).transpose(1, 2).flatten(0, 1).index_select(0, rows.places)
        for each in found
    )
    share = torch.sigmoid(own_normaliser - shared_normaliser).unsqueeze(-1)
    return torch.lerp(shared, own, share.to(own.dtype)).reshape(num_rows, -1, width)


def _flash(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> tuple[Tensor, Tensor]:
    """Return what is attended, [rows, heads, queries, width], and log Σ exp of each query's scores, without `width`."""
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attended, normaliser = attend(query, key, value, 0.0, False, attn_mask=mask, scale=scaling)
    return attended, normaliser


def serves(device: torch.device) -> bool:
    """Whether attention is computed in bfloat16 on a CPU, where this is faster than transformers' own."""
    return device.type == "cpu" and torch.is_autocast_enabled("cpu") and is_on("attention")


AttentionInterface.register(NAME, decoding_attention)
AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
