"""A sequence-classification model with one label: a reward model, or a discriminator that a run has saved."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from uniapl.types import InputError

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
        """Return the logit of each text, in order."""
        found = [0.0] * len(texts)
        for members in _batches([len(text["input_ids"]) for text in texts], batch_tokens):
            logits = self._logits([texts[i] for i in members])
            for i, logit in zip(members, logits.tolist(), strict=True):
                found[i] = logit
        return found

    def _logits(self, texts: Sequence[Encoded]) -> torch.Tensor:
        lengths = torch.tensor([len(text["input_ids"]) for text in texts])
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

    Raises:
        InputError: Nothing loadable is there, or it is no sequence-classification model with one label.
    """
    disable_progress_bar()  # its bars would tear the run's own lines
    try:
        config = AutoConfig.from_pretrained(path)
        _check_label(path, config)
        tokenizer = AutoTokenizer.from_pretrained(path)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=dtype, output_loading_info=True
        )
    except InputError:
        raise
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        missing = "" if Path(path).exists() else " (no such folder here)"
        raise InputError(f"cannot load the reward model {path!r}{missing}: {reason}") from error
    if report["missing_keys"]:
        names = ", ".join(sorted(report["missing_keys"])[:3])
        raise InputError(f"{path!r} is no trained reward model: it has no weights for {names}")
    return SequenceClassifier(model.to(device), tokenizer.pad_token_id), tokenizer


def _check_label(path: str, config: object) -> None:
    kind = ", ".join(getattr(config, "architectures", None) or ["unknown architecture"])
    num_labels = getattr(config, "num_labels", None)
    if num_labels != 1:
        raise InputError(
            f"{path!r} ({kind}) is no reward model: that is a sequence-classification model with "
            f"num_labels 1, not {num_labels}"
        )
