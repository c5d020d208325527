"""`likelihood`: log p_φ - log π_old, with p_φ a second language model that learns the demonstrations as well.

This is the structured discriminator of AIRL (arXiv 1710.11248) over tokens. It learns by likelihood alone: the
optimum of -log p_φ(y*) is p_expert itself, so that the credit tends to the ideal logit log p_expert - log π. Ranking
completions by mean log-ratios has another optimum: it exaggerates log-ratios, and more so for longer completions.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from uniapl.config.recipe import Recipe
from uniapl.data.chat import Chat
from uniapl.discriminators.learner import Learner
from uniapl.discriminators.protocol import Judgement, PolicyLogprobs
from uniapl.discriminators.reader import PromptReader
from uniapl.discriminators.scoring import LocalScorer, held_out_log_ratio, judge_tokens
from uniapl.distributed import ALONE, Ranks
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import completion_offsets, pack
from uniapl.types import Demonstration, MixedBatch, RolloutBatch


class Likelihood:
    """p_φ learns every demonstration that the policy sees, and scores the policy's tokens.

    It starts as a copy of the policy, or as another model with the same tokens: a larger one generalises better from
    the same answers.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: LanguageModel,
        reader: PromptReader | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.credit_clamp = recipe.config.discriminator.credit_clamp
        self.micro_batch_tokens = recipe.config.training.micro_batch_tokens
        self.model, self.ranks = model, ranks
        self.reader = reader or PromptReader()
        self.scorer = LocalScorer(recipe, model, ranks)
        self.learner = Learner(model, recipe, ranks)

    def judge(
        self, batch: RolloutBatch, data: MixedBatch, policy_logprobs: PolicyLogprobs
    ) -> Judgement:
        """As `Discriminator.judge`."""
        judgement = judge_tokens(batch, self.reader, self.scorer, self.credit_clamp)
        return replace(
            judgement, health={"discriminator/loss": self._add_gradient(data.demonstrations)}
        )

    def measure(self, held_out: RolloutBatch, policy_logprobs: PolicyLogprobs) -> dict[str, float]:
        """Return the mean of log p_φ - log π over the held-out demonstrations' tokens, nats."""
        return held_out_log_ratio(held_out, self.reader, self.scorer, policy_logprobs)

    def _add_gradient(self, demonstrations: Sequence[Demonstration]) -> float:
        """Leave the gradient of the mean of -log p_φ over the demonstrations' tokens; return that mean, nats."""
        sequences = list(map(self.reader.sequence, demonstrations))
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
        own = self.reader.chat or chat
        self.model.save(folder, own.tokenizer, dtype)
        return True
