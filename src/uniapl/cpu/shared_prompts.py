"""Keys and values of prompts that all rows of a prompt read in one place while tokens are decoded."""

from dataclasses import dataclass

from torch import Tensor

PROMPTS = "shared_prompts"
"""The attribute of the keys and values that `RoomyLayer.update` returns, by which attention finds the layer's
`SharedPrompts`; what a model makes of them before it attends does not have it."""


@dataclass(slots=True)
class PromptRows:
    """Which prompt each row of a batch continues; one object for all layers of a cache."""

    places: Tensor
    """[rows]: prompt · `group_size` + a place among that prompt's rows, each taken once."""
    group_size: int
    """Rows of the prompt that has most."""
    padding: Tensor | None
    """[prompts, 1, 1, tokens], -inf on the left padding and 0 elsewhere; None if there is none."""


@dataclass(slots=True)
class SharedPrompts:
    """The prompts' keys and values of one layer, which all rows of a prompt read."""

    can_be_read: bool | None = None
    """Whether attention, having found this, can join it to a row's own tokens; None until it has found it."""
    keys: Tensor | None = None
    """[prompts, heads, tokens, width]; None while the layer's own keys hold everything."""
    values: Tensor | None = None
    rows: PromptRows | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of a prompt, padding counted; 0 while nothing is shared."""
        return 0 if self.keys is None else self.keys.shape[-2]
