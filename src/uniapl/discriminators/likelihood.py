"""`likelihood`: log p_φ - log π_old, with p_φ a second language model that learns the demonstrations along.

This is the structured discriminator of AIRL (arXiv 1710.11248) over tokens. It learns by likelihood alone: the
optimum of -log p_φ(y*) is p_expert itself, so that the credit tends to the ideal logit log p_expert - log π. Ranking
completions by mean log-ratios has another optimum, which exaggerates log-ratios the more, the longer the completions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uniapl.config.recipe import Recipe
from uniapl.data.chat import Chat
from uniapl.discriminators.learner import Learner
from uniapl.discriminators.protocol import Judgement, PolicyLogprobs
from uniapl.distributed import ALONE, Ranks
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import TokenSequence, completion_offsets, pack, sequence_of
from uniapl.types import Demonstration, MixedBatch, RolloutBatch


class Likelihood:
    """p_φ starts as a copy of the policy, learns every demonstration that the policy sees, and scores its tokens."""

    def __init__(self, recipe: Recipe, model: LanguageModel, ranks: Ranks = ALONE) -> None:
        config = recipe.config
        self.credit_clamp = config.discriminator.credit_clamp
        self.temperature = config.rollout.temperature
        self.micro_batch_tokens = config.training.micro_batch_tokens
        self.model, self.ranks = model, ranks
        self.learner = Learner(model, recipe, ranks)

    def judge(
        self, batch: RolloutBatch, data: MixedBatch, policy_logprobs: PolicyLogprobs
    ) -> Judgement:
        """As `Discriminator.judge`; a credit per token is valid on a truncated rollout too."""
        expert_logprobs_T = self._logprobs(list(map(sequence_of, batch.rollouts)))
        return Judgement(
            is_credited_T=torch.ones_like(expert_logprobs_T, dtype=torch.bool),
            expert_logprobs_T=expert_logprobs_T,
            credit_clamp=self.credit_clamp,
            health={"discriminator/loss": self._add_gradient(data.demonstrations)},
        )

    def measure(self, held_out: RolloutBatch, policy_logprobs: PolicyLogprobs) -> dict[str, float]:
        """Return the mean of log p_φ - log π over the held-out demonstrations' tokens, nats."""
        sequences = [sequence_of(expert) for expert in held_out.experts if expert]
        if not sequences:
            return {}
        ratios_T = self._logprobs(sequences) - policy_logprobs(sequences)
        return {"discriminator/held_out_log_ratio": ratios_T.mean().item()}

    def _logprobs(self, sequences: Sequence[TokenSequence]) -> Tensor:
        """Log p_φ of all completion tokens, flat [tokens], at the temperature of log π_old, without gradient."""
        packed = pack(sequences, self.micro_batch_tokens)
        num_tokens = completion_offsets(sequences)[-1]
        return self.model.flat_logprobs(packed, num_tokens, self.temperature, self.ranks)

    def _add_gradient(self, demonstrations: Sequence[Demonstration]) -> float:
        """Leave the gradient of the mean of -log p_φ over the demonstrations' tokens; return that mean, nats."""
        sequences = list(map(sequence_of, demonstrations))
        num_tokens, total = completion_offsets(sequences)[-1], 0.0
        for packed, is_own in self.ranks.deal(pack(sequences, self.micro_batch_tokens)):
            loss = -self.model.logprobs(packed.to(self.model.device)).sum() / num_tokens
            (loss if is_own else loss * 0).backward()
            total += loss.item() if is_own else 0.0
        return self.ranks.sums({"loss": total}, "the discriminator's loss")["loss"]

    def learn(self, learning_rate: float) -> dict[str, float]:
        """As `Discriminator.learn`."""
        return self.learner.update(learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """As `Discriminator.state_dict`."""
        return self.learner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Discriminator.load_state_dict`."""
        self.learner.load_state_dict(state)

    def save(self, folder: Path, chat: Chat, dtype: torch.dtype) -> bool:
        """Write p_φ, an ordinary language model."""
        self.model.save(folder, chat.tokenizer, dtype)
        return True
