"""The key/value cache of the decode loop: buffers with spare room, rows that can be shared and dropped."""

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from uniapl.cpu.shared_prompts import PROMPTS, PromptRows, SharedPrompts


class RoomyLayer(DynamicLayer):
    """One layer's keys and values as views into buffers that are longer than what they hold.

    transformers' own `DynamicLayer` concatenates, so every token copies the whole cache; here a
    token is written in place, and the buffers move only when the room is used up. Sliding-window
    layers keep their whole past too: the model's mask, not the cache, hides what left the window.
    Inside an autocast states are kept as attention will read them, so that they are rounded once and not per token.

    Where attention has shown in prefill that it knows how (`decoding_attention`), the rows of a prompt read its keys
    and values in one place, and the layer's own are those of the completions; elsewhere every row gets a copy.
    """

    growth_tokens = 256
    """Room added whenever the buffers are full (or half of their length, if that is more)."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Start empty, with no room: prefill fills the layer once and `share` then makes room."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self._key_buffer = key_states[:, :, :0]
        self._value_buffer = value_states[:, :, :0]
        self.keys, self.values = self._key_buffer, self._value_buffer
        self._prompts = SharedPrompts()
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append the new states; returns all keys and values so far, but for shared prompts."""
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
        if self._key_buffer.shape[-2] == 0:
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
        setattr(self.keys, PROMPTS, self._prompts)
        setattr(self.values, PROMPTS, self._prompts)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return the tokens of a row, shared ones among them."""
        own: int = super().get_seq_length()
        return own + self._prompts.num_tokens if self.is_initialized else own

    @property
    def can_share(self) -> bool:
        """Whether the rows of a prompt may read it in one place."""
        return self._prompts.can_be_read is True

    @property
    def num_bytes(self) -> int:
        """Memory of the buffers, spare room included."""
        own = self._key_buffer.nbytes + self._value_buffer.nbytes
        keys, values = self._prompts.keys, self._prompts.values
        return own if keys is None or values is None else own + keys.nbytes + values.nbytes

    def share(self, rows: Tensor, room: int, shared: PromptRows | None = None) -> None:
        """Let new row i continue old row `rows[i]`, with room for `room` more tokens.

        Args:
            rows: [new rows].
            room: Tokens.
            shared: The same rows, for attention that reads the old ones in place; None: every new row is a copy.
        """
        assert self.keys is not None
        assert self.values is not None
        length = self.keys.shape[-2]
        if shared is not None and self.can_share:
            # Views of their own: `self.keys` carries the prompts, which would then hold each other.
            self._prompts.keys, self._prompts.values = self._key_buffer[:], self._value_buffer[:]
            self._prompts.rows = shared
            self.keys, self.values = self.keys[:, :, :0], self.values[:, :, :0]
            length = 0
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
