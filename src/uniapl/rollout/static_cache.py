"""Keys and values in fixed buffers, and the attention that reads them, registered as `uniapl_static`.

Nothing here asks the device for a value and no shape depends on how far decoding is, so the same call can be
captured once and replayed. Grouped queries read the key/value heads as they are: transformers' own attention
repeats them for a masked cache, which on CUDA costs more than the attention itself.
"""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import AttentionMaskInterface

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


def static_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend with one query per row, [rows, heads, 1, width], to the columns of a `StaticLayer`.

    The forward's `static_distance` [rows, columns] says how many tokens ago a column was written;
    negative: not yet, or padding. A layer's `sliding_window` narrows it. Returns
    [rows, 1, heads, width].

    Raises:
        ValueError: the layer caps its scores or has attention sinks.
    """
    for unsupported in ("softcap", "s_aux"):
        if kwargs.get(unsupported) is not None:
            raise ValueError(f"its attention uses {unsupported}")
    distance: Tensor = kwargs["static_distance"]
    mask = distance >= 0
    if (window := kwargs.get("sliding_window")) is not None:
        mask = mask & (distance < window)
    attended = nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask[:, None, None],
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended.transpose(1, 2).contiguous(), None


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    """Build no mask: the distance is one."""


AttentionInterface.register(NAME, static_attention)
AttentionMaskInterface.register(NAME, _no_mask)
