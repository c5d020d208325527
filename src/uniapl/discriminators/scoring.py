"""Log-probs of given tokens under a model that is not the policy, and the credit that they are worth."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from uniapl.config.recipe import Recipe
from uniapl.discriminators.protocol import Judgement
from uniapl.discriminators.reader import PromptReader
from uniapl.distributed import ALONE, Ranks
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import (
    TokenSequence,
    completion_offsets,
    pack,
    per_token,
    sequence_of,
)
from uniapl.types import RolloutBatch


class TokenScorer(Protocol):
    """Says how likely tokens are."""

    def logprobs(self, sequences: Sequence[TokenSequence]) -> Tensor:
        """Return log p of all completion tokens, flat [tokens], nats, without gradient.

        Raises:
            TrainingError: A server does not answer, or not with such numbers.
        """
        ...


class LocalScorer:
    """A language model in this process, read at the rollouts' temperature."""

    def __init__(self, recipe: Recipe, model: LanguageModel, ranks: Ranks = ALONE) -> None:
        self.model, self.ranks = model, ranks
        self.temperature = recipe.config.rollout.temperature
        self.micro_batch_tokens = recipe.config.training.micro_batch_tokens

    def logprobs(self, sequences: Sequence[TokenSequence]) -> Tensor:
        """As `TokenScorer.logprobs`."""
        packed = pack(sequences, self.micro_batch_tokens)
        num_tokens = completion_offsets(sequences)[-1]
        return self.model.flat_logprobs(packed, num_tokens, self.temperature, self.ranks)


def judge_tokens(
    batch: RolloutBatch, reader: PromptReader, scorer: TokenScorer, credit_clamp: float
) -> Judgement:
    """Return log p of every rollout token that is read, as the judgement of a log-ratio form.

    A credit per token is valid on a truncated rollout too.
    """
    read = reader.rollouts(batch)
    asked = [sequence for sequence in read if sequence is not None]
    found_T = scorer.logprobs(asked) if asked else torch.zeros(0)
    is_read_S = torch.tensor([s is not None for s in read], device=found_T.device)
    is_credited_T = per_token(is_read_S, list(map(sequence_of, batch.rollouts)))
    expert_logprobs_T = found_T.new_zeros(len(is_credited_T))
    expert_logprobs_T[is_credited_T] = found_T
    return Judgement(
        is_credited_T=is_credited_T, expert_logprobs_T=expert_logprobs_T, credit_clamp=credit_clamp
    )
