"""The backbone of the `scalar` discriminator: a causal language model with a head on the last token."""

import torch
from torch import Tensor, nn

from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import Packed


class ScalarModel(nn.Module):
    """d(x, y) from the hidden state of a completion's last token."""

    def __init__(self, backbone: LanguageModel) -> None:
        super().__init__()
        self.backbone = backbone
        width = backbone.model.config.get_text_config().hidden_size
        self.head = nn.Linear(width, 1, bias=False, device=backbone.device)
        # zero: the first verdict on every completion is the same, so its loss starts at log 2 exactly
        nn.init.zeros_(self.head.weight)
        # the language-model head is not used, unless it is tied to the embeddings
        if not backbone.model.config.get_text_config().tie_word_embeddings:
            self.backbone.head.requires_grad_(False)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the weights that learn: the backbone's and the head."""
        return [*self.backbone.trainable_parameters(), *self.head.parameters()]

    def logits(self, packed: Packed) -> Tensor:
        """Return d of each sequence of a packed micro-batch, [sequences] in the head's number type."""
        hidden = self.backbone.hidden_states(packed)[packed.last_positions]
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(hidden.to(self.head.weight.dtype)).squeeze(1)
