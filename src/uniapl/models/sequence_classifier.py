"""A sequence-classification model with one label: a reward model, or a discriminator that a run has saved."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from uniapl.errors import InputError
from uniapl.models.loading import (
    check_tokens,
    load_config,
    load_tokenizer,
    load_weights,
    refusing,
)
from uniapl.models.model_source import find_model
from uniapl.models.saving import follow_umask

Encoded = Mapping[str, Sequence[int]]
"""What the model reads of one text, as its tokenizer returns it: `input_ids`, perhaps `token_type_ids`."""

BATCH_TOKENS = 16384
"""Tokens of one forward, padding included."""


class SequenceClassifier:
    """Scores token ids in padded batches; the padding changes no score."""

    def __init__(self, model: PreTrainedModel, pad_token_id: int | None = None) -> None:
        self.model = model.eval()
        self.pad_token_id = pad_token_id

    @property
    def context(self) -> int | None:
        """Most tokens the model can read, if it says so."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is None:
            return None
        # RoBERTa counts positions from behind that of its padding
        unused = [
            module.padding_idx + 1
            for name, module in self.model.named_modules()
            if name.endswith("position_embeddings")
            and isinstance(module, torch.nn.Embedding)
            and module.padding_idx is not None
        ]
        return limit - max(unused, default=0)

    @torch.no_grad()
    def scores(self, texts: Sequence[Encoded], batch_tokens: int = BATCH_TOKENS) -> list[float]:
        """Return the logit of each text.

        Args:
            texts: As their tokenizer returns them; all with the same names, each with at least one token.
            batch_tokens: Of one forward, padding included; a longer text goes by itself.

        Returns:
            One number per text in the given order, high = good, in the scale of the model; without gradient.
        """
        found = [0.0] * len(texts)
        for members in _batches(_lengths(texts), batch_tokens):
            logits = self._logits([texts[i] for i in members])
            for i, logit in zip(members, logits.tolist(), strict=True):
                found[i] = logit
        return found

    def backward(
        self,
        texts: Sequence[Encoded],
        slopes: Sequence[float],
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        """Add to the weights the gradient of Σ slope · logit over the texts.

        A loss of many logits needs no batch that holds all of its texts: its slopes come from `scores`.

        Args:
            texts: As in `scores`.
            slopes: Derivative of the loss by each text's logit.
            batch_tokens: As in `scores`.
        """
        for members in _batches(_lengths(texts), batch_tokens):
            logits = self._logits([texts[i] for i in members])
            own = torch.tensor([slopes[i] for i in members], device=logits.device)
            (logits * own).sum().backward()

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the weights that learn."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield all weights with their names."""
        return self.model.named_parameters()

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype) -> None:
        """Write an ordinary sequence-classification folder.

        Args:
            folder: Where to; made if it is not there.
            tokenizer: The model's own, saved beside it.
            dtype: The number type of the weights in the file.
        """
        for config in (self.model.config, self.model.config.get_text_config()):
            config.pad_token_id = self.pad_token_id  # each batch has set one of its own
        weights = {name: w.detach().to(dtype) for name, w in self.model.state_dict().items()}
        self.model.save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)
        follow_umask(folder)

    def _logits(self, texts: Sequence[Encoded]) -> torch.Tensor:
        lengths = torch.tensor(_lengths(texts))
        pad = self._padding([text["input_ids"][-1] for text in texts])
        batch = {
            name: torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(text[name]) for text in texts],
                batch_first=True,
                padding_value=pad if name == "input_ids" else 0,
            )
            for name in texts[0]
        }
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        for config in (self.model.config, self.model.config.get_text_config()):
            config.pad_token_id = pad
        moved = {name: values.to(self.model.device) for name, values in batch.items()}
        return self.model(**moved).logits[:, 0].float()

    def _padding(self, last_token_ids: Sequence[int]) -> int:
        """Return the id to pad with.

        Decoders are read at the rightmost token that is not padding, so where the tokenizer has no padding token,
        or texts end in it (the end of a turn often is), another must do; the attention mask hides it anyway.
        """
        last = set(last_token_ids)
        if self.pad_token_id is not None and self.pad_token_id not in last:
            return self.pad_token_id
        return next(i for i in range(len(last) + 1) if i not in last)


def _lengths(texts: Sequence[Encoded]) -> list[int]:
    return [len(text["input_ids"]) for text in texts]


def _batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Yield indices of texts of similar length, at most `max_tokens` with padding; at least one each."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def load_sequence_classifier(
    path: str, dtype: torch.dtype, device: torch.device
) -> tuple[SequenceClassifier, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer from a folder or the hub.

    Args:
        path: A model folder, or a name on the hub.
        dtype: The number type of weights and forwards.
        device: Where the weights go.

    Raises:
        InputError: Nothing loadable is there, weights are missing (a random head scores at random), or it is no
            sequence-classification model with one label.
    """
    with refusing("cannot load the reward model", path):
        source = find_model(path)
        if source.is_adapter:
            raise ValueError(
                "it is an adapter; merge it into its base model (peft's merge_and_unload) and give that"
            )
        config = load_config(source)
        _check_label(path, config)
        tokenizer = load_tokenizer(source)
        model = load_weights(
            AutoModelForSequenceClassification, source, config, dtype, harmless=("lm_head.weight",)
        )
        check_tokens(tokenizer, model, (tokenizer.pad_token_id, tokenizer.eos_token_id))
    nn.Module.to(model, device)
    return SequenceClassifier(model, cast(int | None, tokenizer.pad_token_id)), tokenizer


def _check_label(path: str, config: object) -> None:
    kind = ", ".join(getattr(config, "architectures", None) or ["unknown architecture"])
    num_labels = getattr(config, "num_labels", None)
    if num_labels != 1:
        raise InputError(
            f"{path!r} ({kind}) is no reward model: that is a sequence-classification model with "
            f"num_labels 1, not {num_labels}"
        )
