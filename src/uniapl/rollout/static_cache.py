"""Keys and values in fixed buffers, and the attention that reads them, registered as `uniapl_static`.

Nothing here asks the device for a value and no shape depends on how far decoding is, so the same call can be
captured once and replayed. Grouped queries read the key/value heads as they are: transformers' own attention
repeats them for a masked cache, which on CUDA costs more than the attention itself.

What a layer may see (its window, its chunk) a model says when it asks transformers for a mask, by a function of two
positions. Here that function takes the mask's place, and attention applies it to the positions of the columns.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function

NAME = "uniapl_static"


class StaticLayer(DynamicLayer):
    """One layer's keys and values, [rows, heads, columns, width]; a forward sees a corner of them.

    `slot` is the column that the next token is written to, one for all rows as prompts end in the
    same column.
    """

    def __init__(self, keys: Tensor, values: Tensor, slot: Tensor) -> None:
        super().__init__()
        self.dtype, self.device = keys.dtype, keys.device
        self._key_buffer, self._value_buffer, self._slot = keys, values, slot
        self.keys, self.values = keys, values
        self.is_initialized = True

    def show(self, num_rows: int, num_columns: int) -> None:
        """Let the next forwards see this corner of the buffers."""
        self.keys = self._key_buffer[:num_rows, :, :num_columns]
        self.values = self._value_buffer[:num_rows, :, :num_columns]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the states of one token per row into its slot; returns what the forward sees."""
        assert self.keys is not None
        assert self.values is not None
        self.keys.index_copy_(2, self._slot, key_states)
        self.values.index_copy_(2, self._slot, value_states)
        return self.keys, self.values

    def fill(self, keys: Tensor, values: Tensor, rows: Tensor) -> None:
        """Let row i begin with a copy of row `rows[i]` of these prompts."""
        length = keys.shape[2]
        self._key_buffer[: len(rows), :, :length] = keys[rows]
        self._value_buffer[: len(rows), :, :length] = values[rows]

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Copy rows `sources` over rows `targets`."""
        self._key_buffer[targets] = self._key_buffer[sources]
        self._value_buffer[targets] = self._value_buffer[sources]


MaskRule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""transformers' function of batch row, head, query position and key position; True = sees."""


def mask_rule(*, mask_function: MaskRule, **_kwargs: Any) -> MaskRule | None:
    """Return the rule by which transformers would have built a mask; None if it is to see the whole past."""
    return None if mask_function is causal_mask_function else mask_function


def static_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: MaskRule | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend with one query per row to the columns of a `StaticLayer`.

    Args:
        module: The layer that attends; unused.
        query: [rows, heads, 1, width].
        key: [rows, key heads, columns, width]; the key heads divide the heads.
        value: [rows, key heads, columns, width of values].
        attention_mask: What the layer sees of the past; None: all of it.
        scaling: Of the scores; None: one over the square root of the width.
        kwargs: The layer's own, and the forward's: `static_distance` [rows, columns] says how many tokens ago a column
            was written (negative: not yet, or padding), `static_positions` [rows] where the query stands, padding not
            counted, and `static_masks` keeps what layers with the same rule share.

    Returns:
        [rows, 1, heads, width of values], and no attention weights.

    Raises:
        ValueError: the layer does something with its scores that is not known here.
    """
    for unsupported in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(unsupported) is not None:
            raise ValueError(f"its attention uses {unsupported}")
    if attention_mask is not None and not callable(attention_mask):
        raise ValueError("it makes attention masks of its own")
    masks: dict[MaskRule | None, Tensor] = kwargs["static_masks"]
    if attention_mask not in masks:
        distance: Tensor = kwargs["static_distance"]
        mask = distance >= 0
        if attention_mask is not None:
            positions: Tensor = kwargs["static_positions"][:, None]
            any_row = any_head = positions.new_zeros(())
            mask = mask & attention_mask(any_row, any_head, positions, positions - distance)
        masks[attention_mask] = mask[:, None, None]
    attended = nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=masks[attention_mask],
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, static_attention)
AttentionMaskInterface.register(NAME, mask_rule)
