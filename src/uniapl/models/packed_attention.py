"""The attention of a packed row, registered with transformers under the name `uniapl_packed`.

transformers hands every attention layer to a function it looks up by name, along with the extra keyword
arguments of the forward call; ours arrive as `packed_blocks` and `packed_positions`.
"""

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from uniapl.models.packing import AttentionBlock

NAME = "uniapl_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend inside each block's segments.

    `query` is [1, heads, tokens, width], `key` and `value` may have fewer heads; returns
    [1, tokens, heads, width]. A layer's `sliding_window` narrows the mask by position.

    Raises:
        ValueError: The layer caps its scores or has attention sinks.
    """
    for unsupported in ("softcap", "s_aux"):
        if kwargs.get(unsupported) is not None:
            raise ValueError(f"its attention uses {unsupported}")
    blocks: tuple[AttentionBlock, ...] = kwargs["packed_blocks"]
    window: int | None = kwargs.get("sliding_window")
    is_cpu = query.device.type == "cpu"
    if is_cpu:
        # a CPU attends faster in float32 than in bfloat16, backward above all
        dtypes = (t.dtype for t in (query, key, value))
        dtype = functools.reduce(torch.promote_types, dtypes, torch.float32)
        query, key, value = (t.to(dtype) for t in (query, key, value))
    # tokens first, so that gathering a segment copies whole rows
    query, key, value = (t[0].transpose(0, 1) for t in (query, key, value))
    num_shared = query.shape[1] // key.shape[1]
    parts = []
    for block in blocks:
        mask = block.mask
        if window is not None:
            positions = kwargs["packed_positions"]
            distance = positions[block.queries][:, :, None] - positions[block.keys][:, None, :]
            mask = mask & (distance < window)[:, None]
        q, k, v = (
            _gathered(t, index).transpose(1, 2)
            for t, index in ((query, block.queries), (key, block.keys), (value, block.keys))
        )
        of_one_head = is_cpu and num_shared > 1
        if of_one_head:  # there the kernel is faster if heads with the same keys are queries of one
            q = q.reshape(len(q), k.shape[1], -1, q.shape[-1])
            mask = mask.repeat(1, 1, num_shared, 1)
        with _products(query.device):
            attended = nn.functional.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                scale=scaling,
                enable_gqa=num_shared > 1 and not of_one_head,
            )
        attended = attended.reshape(len(q), query.shape[1], -1, v.shape[-1])
        parts.append(attended.transpose(1, 2).flatten(0, 1).index_select(0, block.written))
    order = torch.cat([block.positions for block in blocks])
    flat = torch.cat(parts)
    # not like the query: under autocast it may be float32 while attention returned bfloat16
    output = torch.empty_like(flat).index_copy(0, order, flat)
    return output[None], None


def _gathered(values: Tensor, index: Tensor) -> Tensor:
    """Return values[index], whose backward pass would scatter one number at a time."""
    return values.index_select(0, index.flatten()).unflatten(0, index.shape)


def _products(device: torch.device) -> AbstractContextManager[object]:
    """Return the context of the attention itself."""
    if device.type == "cpu":
        return torch.autocast("cpu", enabled=False)
    return nullcontext()


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    """Build no mask: the blocks carry theirs."""


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _no_mask)
