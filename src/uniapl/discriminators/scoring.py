"""Log-probs of given tokens under a model that is not the policy, and how these and scores become judgements."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from uniapl.config.recipe import Recipe
from uniapl.discriminators.protocol import Judgement, PolicyLogprobs
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
from uniapl.objective.adversarial import completion_credit
from uniapl.objective.constraint import smooth
from uniapl.objective.reductions import mean_group_std
from uniapl.types import RolloutBatch

STD_SMOOTHING = 0.9
"""Weight of the past in the running group deviation."""
STD_FLOOR = 0.1
"""Least standard deviation by which centred logits are divided: noise is never blown up."""


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


class DealtScorer:
    """A scorer that each rank asks about some of the sequences; all get all log-probs."""

    def __init__(self, scorer: TokenScorer, ranks: Ranks, device: torch.device) -> None:
        self.scorer, self.ranks, self.device = scorer, ranks, device

    def logprobs(self, sequences: Sequence[TokenSequence]) -> Tensor:
        """As `TokenScorer.logprobs`."""

        def work(own: list[TokenSequence]) -> list[Tensor]:
            lengths = [len(sequence.completion_ids) for sequence in own]
            # a tensor of one rank's device is of no use on another's
            return list(self.scorer.logprobs(own).cpu().split(lengths)) if own else []

        parts = self.ranks.spread(sequences, work, "the expert's log-probs")
        return torch.cat(parts).to(self.device)


def judge_tokens(
    batch: RolloutBatch, reader: PromptReader, scorer: TokenScorer, credit_clamp: float
) -> Judgement:
    """Return log p of every rollout token that is read, as the judgement of a log-ratio form.

    A credit per token is valid on a truncated rollout too.

    Args:
        batch: The step's rollouts.
        reader: Says what the model reads of each rollout, and which rollouts it does not read.
        scorer: Gives log p, nats.
        credit_clamp: Bound of a token's log-ratio as credit, nats.
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


def held_out_log_ratio(
    held_out: RolloutBatch,
    reader: PromptReader,
    scorer: TokenScorer,
    policy_logprobs: PolicyLogprobs,
) -> dict[str, float]:
    """Return the mean of log p - log π over all tokens of the held-out demonstrations, nats; {} without any."""
    experts = [expert for expert in held_out.experts if expert]
    if not experts:
        return {}
    own_T = policy_logprobs(list(map(sequence_of, experts)))
    ratios_T = scorer.logprobs(list(map(reader.sequence, experts))) - own_T
    return {"discriminator/held_out_log_ratio": ratios_T.mean().item()}


def judge_completions(
    batch: RolloutBatch,
    logits_GxN: Tensor,
    is_counted_GxN: Tensor,
    running_std: float | None,
    health: Mapping[str, float],
) -> tuple[Judgement, float | None]:
    """Return what scores of completions are worth, and the running deviation of groups after this step.

    Args:
        batch: The step's rollouts.
        logits_GxN: d of each; any finite number where it does not count.
        is_counted_GxN: Which of them are centred and credited.
        running_std: Moving average of the mean group deviation before; None: there was none yet.
        health: Metrics of the form's own, without `discriminator/`.
    """
    std = mean_group_std(logits_GxN, is_counted_GxN)
    if std is not None:
        running_std = smooth(running_std, std, STD_SMOOTHING)
    credit_GxN = completion_credit(logits_GxN, is_counted_GxN, running_std or 0.0, STD_FLOOR)
    rollouts = list(map(sequence_of, batch.rollouts))
    judgement = Judgement(
        is_credited_T=per_token(is_counted_GxN.flatten(), rollouts),
        credit_T=per_token(credit_GxN.flatten(), rollouts),
        logits_GxN=logits_GxN,
        health={f"discriminator/{name}": value for name, value in health.items()},
    )
    return judgement, running_std
