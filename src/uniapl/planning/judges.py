"""The model of `discriminator.path` in a plan: without numbers, as the policy is, and what it will read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from uniapl.config.recipe import Recipe
from uniapl.discriminators.texts import PairText, answer_of
from uniapl.models.language_model import LanguageModel
from uniapl.models.loading import empty_model, load_config, load_tokenizer, refusing
from uniapl.models.model_source import find_model
from uniapl.models.packing import TokenSequence
from uniapl.types import Demonstration


@dataclass(frozen=True, slots=True)
class OtherModel:
    """Another language model than the policy, or a scorer of texts."""

    config: object
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def of(cls, recipe: Recipe) -> "OtherModel | None":
        """Return the one of `discriminator.path`; None where there is none in this process.

        Raises:
            InputError: It cannot be loaded.
        """
        discriminator = recipe.config.discriminator
        if recipe.form in (None, "scalar") or not discriminator.path or discriminator.servers:
            return None
        with refusing("discriminator.path: cannot load", discriminator.path):
            source = find_model(discriminator.path)
            return cls(load_config(source), load_tokenizer(source))

    def language_model(self, dtype: torch.dtype) -> LanguageModel:
        """Return it without numbers, as wide as it is loaded."""
        return LanguageModel(empty_model(self.config), dtype)

    def scorer(self, dtype: torch.dtype, *, learns: bool) -> "Scorer":
        """Return it without numbers; weights that learn are float32."""
        stored = torch.float32 if learns else dtype
        model = AutoModelForSequenceClassification.from_config(self.config, dtype=stored)
        return Scorer(model.requires_grad_(learns), dtype)

    def text_lengths(self, recipe: Recipe, paired: Sequence[Demonstration]) -> list[int]:
        """Return the tokens of each text of a step whose rollouts reach their limit."""
        rollout = recipe.config.rollout
        write = PairText(recipe.config.discriminator.pair_template)
        lengths = [
            len(self.tokenizer(write(d.prompt, answer_of(d), ""))["input_ids"])
            + rollout.max_completion_tokens
            for d in paired
        ]
        return [length for length in lengths for _ in range(rollout.group_size)]


class Scorer(nn.Module):
    """A scorer of texts without numbers."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the weights that learn."""
        return [p for p in self.parameters() if p.requires_grad]

    def largest_batch(self, lengths: Sequence[int], batch_tokens: int) -> Callable[[], Tensor]:
        """Return the forward of the batch with the most tokens, as `SequenceClassifier` would cut them.

        Args:
            lengths: Of the texts, tokens, at least one.
            batch_tokens: Of a batch, padding included.
        """
        longest = max(lengths)
        rows = min(len(lengths), max(1, batch_tokens // longest))
        self.model.config.get_text_config().pad_token_id = 0
        self.model.config.pad_token_id = 0

        def run() -> Tensor:
            ids = torch.zeros(rows, longest, dtype=torch.long)
            with torch.autocast("cpu", self.dtype, enabled=self.dtype.itemsize < 4):
                return self.model(input_ids=ids).logits

        return run


def hinted(
    rollouts: Sequence[TokenSequence], paired: Sequence[Demonstration], group_size: int
) -> list[TokenSequence]:
    """Return the rollouts of demonstration prompts, which come first, with the demonstration in their prompts."""
    hints = [d.token_ids for d in paired for _ in range(group_size)]
    return [
        TokenSequence((*rollout.prompt_ids, *hint), rollout.completion_ids)
        for rollout, hint in zip(rollouts, hints, strict=False)
    ]
