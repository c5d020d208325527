"""The attention of a packed row, registered with transformers under the name `uniapl_packed`.

transformers hands every attention layer to a function it looks up by name, along with the extra keyword
arguments of the forward call; ours arrive as `packed_blocks`, `packed_positions` and `packed_masks`.

What a layer may see (its window, its chunk) a model says when it asks transformers for a mask: the mask function
of that name is called with a rule, a function of two positions. Ours keeps the rule in place of a mask, and the
layer's attention applies it to the positions inside each sequence.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function

from uniapl.models.packing import AttentionBlock

NAME = "uniapl_packed"


MaskRule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""What layers may see: transformers' function of batch row, head, query position and key position; True = sees."""


def mask_rule(*, mask_function: MaskRule, **_kwargs: Any) -> MaskRule | None:
    """Return the rule by which transformers would have built a mask; None if it is to see the whole past."""
    return None if mask_function is causal_mask_function else mask_function


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: MaskRule | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend inside each block's segments.

    Args:
        module: The layer that attends; unused.
        query: [1, heads, tokens, width].
        key: [1, key heads, tokens, width]; the key heads divide the heads.
        value: [1, key heads, tokens, width of values].
        attention_mask: What the layer sees of the past; None: all of it. No padding: a packed row has none.
        scaling: Of the scores; None: one over the square root of the width.
        kwargs: The extra arguments of the forward call, and the layer's own. A layer's `sliding_window` is not
            read, as transformers' own `sdpa` does not: the mask says it.

    Returns:
        [1, tokens, heads, width of values], and no attention weights.

    Raises:
        ValueError: The layer does something with its scores that is not known here.
    """
    check_scores(kwargs)
    if attention_mask is not None and not callable(attention_mask):
        raise ValueError("it makes attention masks of its own")
    blocks: tuple[AttentionBlock, ...] = kwargs["packed_blocks"]
    masks: Masks = kwargs["packed_masks"]
    attend = _attend
    if query.device.type == "cpu":
        # a CPU attends faster in float32 than in bfloat16, backward above all
        dtypes = (t.dtype for t in (query, key, value))
        dtype = functools.reduce(torch.promote_types, dtypes, torch.float32)
        query, key, value = (t.to(dtype) for t in (query, key, value))
        attend = _attend_on_cpu
    # tokens first, so that gathering a segment copies whole rows
    query, key, value = (t[0].transpose(0, 1) for t in (query, key, value))
    parts = []
    for block in blocks:
        mask = block.mask
        if attention_mask is not None:
            name = (id(block), attention_mask)
            if name not in masks:
                masks[name] = mask & _is_seen(block, kwargs["packed_positions"], attention_mask)
            mask = masks[name]
        parts.append(attend(query, key, value, block, mask, scaling, masks))
    order = torch.cat([block.positions for block in blocks])
    flat = torch.cat(parts)
    # not like the query: under autocast it may be float32 while attention returned bfloat16
    output = torch.empty_like(flat).index_copy(0, order, flat)
    return output[None], None


Masks = dict[tuple[object, ...], Tensor]
"""Of one forward: masks that several layers share, made by the first of them."""


def check_scores(kwargs: dict[str, Any]) -> None:
    """Refuse what a layer asks its attention function for beyond softmax(q · k · scaling) v.

    Raises:
        ValueError: It caps its scores, adds to them or has attention sinks.
    """
    for unsupported in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(unsupported) is not None:
            raise ValueError(f"its attention uses {unsupported}")


def _is_seen(block: AttentionBlock, positions: Tensor, rule: MaskRule) -> Tensor:
    """Return which queries see which keys by the rule alone: [segments, 1, queries, keys]."""
    any_row = any_head = positions.new_zeros(())
    queries, keys = positions[block.queries][:, :, None], positions[block.keys][:, None, :]
    return rule(any_row, any_head, queries, keys)[:, None]


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block: AttentionBlock,
    mask: Tensor,
    scaling: float | None,
    _masks: Masks,
) -> Tensor:
    """Return what a block's queries attend to, [tokens written, heads, width of values], in the order of `written`.

    Args:
        query: [tokens, heads, width].
        key: [tokens, key heads, width].
        value: [tokens, key heads, width of values].
        block: Which of these tokens are its queries and its keys.
        mask: [segments, 1, queries, keys], True = sees.
        scaling: Of the scores; None: one over the square root of the width.
    """
    q, k, v = _segments(query, key, value, block)
    attended = nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
    )
    return attended.transpose(1, 2).flatten(0, 1).index_select(0, block.written)


def _attend_on_cpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block: AttentionBlock,
    mask: Tensor,
    scaling: float | None,
    masks: Masks,
) -> Tensor:
    """Return what `_attend` does, faster on a CPU.

    The kernel is faster there if the query heads that share a key head are laid out as queries of one head. It is
    given a mask of numbers, made once per forward (`masks`): of a boolean one every layer would make its own and keep
    it for the backward pass.
    """
    q, k, v = _segments(query, key, value, block)
    num_heads, num_shared = q.shape[1], q.shape[1] // k.shape[1]
    name = (id(mask), q.dtype, num_shared)
    if name not in masks:
        hidden = torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, -torch.inf)
        masks[name] = hidden.repeat(1, 1, num_shared, 1)
    with torch.autocast("cpu", enabled=False):
        attended = nn.functional.scaled_dot_product_attention(
            q.reshape(len(q), k.shape[1], -1, q.shape[-1]),
            k,
            v,
            attn_mask=masks[name],
            scale=scaling,
        )
    attended = attended.reshape(len(q), num_heads, -1, v.shape[-1])
    return attended.transpose(1, 2).flatten(0, 1).index_select(0, block.written)


def _segments(
    query: Tensor, key: Tensor, value: Tensor, block: AttentionBlock
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each segment's queries, keys and values, [segments, heads, tokens, width]."""
    q, k, v = (
        _gathered(t, index).transpose(1, 2)
        for t, index in ((query, block.queries), (key, block.keys), (value, block.keys))
    )
    return q, k, v


def _gathered(values: Tensor, index: Tensor) -> Tensor:
    """Return values[index], whose backward pass would scatter one number at a time."""
    return values.index_select(0, index.flatten()).unflatten(0, index.shape)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, mask_rule)
