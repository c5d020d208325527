"""The key/value cache of the decode loop: buffers with spare room, rows that can be shared and dropped."""

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """One layer's keys and values as views into buffers that are longer than what they hold.

    transformers' own `DynamicLayer` concatenates, so every token copies the whole cache; here a
    token is written in place, and the buffers move only when the room is used up. Sliding-window
    layers keep their whole past too: the model's mask, not the cache, hides what left the window.
    Inside an autocast states are kept as attention will read them, so that they are rounded once and not per token.
    """

    growth_tokens = 256
    """Room added whenever the buffers are full (or half of their length, if that is more)."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Start empty, with no room: prefill fills the layer once and `share` then makes room."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self._key_buffer = key_states[:, :, :0]
        self._value_buffer = value_states[:, :, :0]
        self.keys, self.values = self._key_buffer, self._value_buffer
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append the new states; returns all keys and values so far."""
        device = key_states.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            key_states, value_states = key_states.to(dtype), value_states.to(dtype)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if start == 0:
            self._key_buffer, self._value_buffer = key_states, value_states
        else:
            if end > self._key_buffer.shape[-2]:
                room = end - start + max(self.growth_tokens, start // 2)
                self._key_buffer = _with_room(self.keys, room)
                self._value_buffer = _with_room(self.values, room)
            self._key_buffer[:, :, start:end] = key_states
            self._value_buffer[:, :, start:end] = value_states
        self.keys = self._key_buffer[:, :, :end]
        self.values = self._value_buffer[:, :, :end]
        return self.keys, self.values

    @property
    def num_bytes(self) -> int:
        """Memory of the buffers, spare room included."""
        return self._key_buffer.nbytes + self._value_buffer.nbytes

    def share(self, rows: Tensor, room: int) -> None:
        """Let new row i hold a copy of old row `rows[i]`, with room for `room` more tokens."""
        assert self.keys is not None
        assert self.values is not None
        length = self.keys.shape[-2]
        self._key_buffer = _with_room(self.keys, room, rows)
        self._value_buffer = _with_room(self.values, room, rows)
        self.keys = self._key_buffer[:, :, :length]
        self.values = self._value_buffer[:, :, :length]

    def move(self, sources: Tensor, targets: Tensor, num_rows: int) -> None:
        """Copy rows `sources` over rows `targets`, then keep only the first `num_rows` rows.

        The buffers shrink as views: dropping a row costs one copied row, not a copied cache.
        """
        assert self.keys is not None
        assert self.values is not None
        self.keys[targets] = self.keys[sources]
        self.values[targets] = self.values[sources]
        self._key_buffer = self._key_buffer[:num_rows]
        self._value_buffer = self._value_buffer[:num_rows]
        self.keys, self.values = self.keys[:num_rows], self.values[:num_rows]


def _with_room(states: Tensor, room: int, rows: Tensor | None = None) -> Tensor:
    num_rows = states.shape[0] if rows is None else len(rows)
    _, num_heads, length, width = states.shape
    buffer = states.new_empty(num_rows, num_heads, length + room, width)
    buffer[:, :, :length] = states if rows is None else torch.index_select(states, 0, rows)
    return buffer
