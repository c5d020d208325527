"""Attention of single tokens in bfloat16 on a CPU, registered with transformers under the name `uniapl_decoding`.

There torch's kernel for grouped queries takes four times as long as the same attention with a group's heads laid
out as queries of one head: one token sees the same keys with all of them.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

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

    `query` is [rows, heads, tokens, width], `key` and `value` may have fewer heads; returns
    [rows, tokens, heads, width].
    """
    rows, num_heads, num_tokens, _ = query.shape
    is_shared = attention_mask is None or attention_mask.shape[1] == 1
    has_extras = any(kwargs.get(name) is not None for name in ("softcap", "position_bias"))
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


def serves(device: torch.device) -> bool:
    """Whether the products are such that this is faster than transformers' own."""
    return device.type == "cpu" and torch.is_autocast_enabled("cpu")


AttentionInterface.register(NAME, decoding_attention)
AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
