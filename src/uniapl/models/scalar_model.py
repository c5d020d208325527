"""The backbone of the `scalar` discriminator: a causal language model with a head on the last token."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from uniapl.distributed.sharding import whole
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import Packed
from uniapl.models.saving import follow_umask


class ScalarModel(nn.Module):
    """d(x, y): a linear head, without bias, on the hidden state of a completion's last token."""

    def __init__(self, backbone: LanguageModel) -> None:
        super().__init__()
        self.backbone = backbone
        width = backbone.model.config.get_text_config().hidden_size
        self.head = nn.Linear(width, 1, bias=False, device=backbone.device)
        # with zeros d is 0 for every completion at first, so that the loss starts at log 2 exactly
        nn.init.zeros_(self.head.weight)
        # the language-model head is not used, unless it is tied to the embeddings
        if not backbone.model.config.get_text_config().tie_word_embeddings:
            self.backbone.head.requires_grad_(False)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the weights that learn: the backbone's and the head."""
        return [*self.backbone.trainable_parameters(), *self.head.parameters()]

    def shard(self) -> None:
        """As `LanguageModel.shard`."""
        self.backbone.shard(self, ("logits",))

    @contextmanager
    def gathered(self, device: torch.device | None) -> Iterator[None]:
        """As `LanguageModel.gathered`: within, `save` finds all weights."""
        with self.backbone.gathered(device):
            self._head_weight = whole(self.head.weight.detach())
            yield

    @property
    def can_be_saved(self) -> bool:
        """Whether transformers has a sequence-classification model of this architecture."""
        return type(self.backbone.model.config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype) -> None:
        """Write an ordinary sequence-classification folder with one label, the weights as `dtype`.

        It has no padding token where that ends completions: transformers finds a text's last token by it. Where weights
        are shared out, this happens while they are `gathered`.

        Args:
            folder: Where to; made if it is not there.
            tokenizer: The policy's, saved beside it.
            dtype: The number type of the weights in the file.
        """
        config = copy.deepcopy(self.backbone.model.config)
        config.num_labels = 1
        ends = tokenizer.pad_token_id == tokenizer.eos_token_id
        config.get_text_config().pad_token_id = None if ends else tokenizer.pad_token_id
        with torch.device("meta"):  # only its names and shapes are needed
            model = AutoModelForSequenceClassification.from_config(config, dtype=dtype)
        weights = self.backbone.merged().base_model.state_dict()
        model.base_model.load_state_dict({n: w.to(dtype) for n, w in weights.items()}, assign=True)
        head = getattr(self, "_head_weight", self.head.weight.detach())
        model.score.load_state_dict({"weight": head.to(dtype)}, assign=True)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        follow_umask(folder)

    def logits(self, packed: Packed) -> Tensor:
        """Return d(x, y) of every sequence, a logit: high where the completion looks like the expert's.

        Args:
            packed: The micro-batch, on the model's device.

        Returns:
            [sequences in this micro-batch] in the order of `packed.sequences`, in the head's number type, with
            gradient.
        """
        hidden = self.backbone.hidden_states(packed)[packed.last_positions]
        with torch.autocast(hidden.device.type, enabled=False):
            # a sum over one number, and no view: FSDP2 hooks what is returned
            return self.head(hidden.to(self.head.weight.dtype)).sum(1)
