"""`scalar`: a head on the last token, ranked against the expert's completion (GAD, arXiv 2511.10643)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uniapl.config.recipe import Recipe
from uniapl.data.chat import Chat
from uniapl.discriminators import health
from uniapl.discriminators.learner import Learner
from uniapl.discriminators.protocol import Judgement, PolicyLogprobs
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import Packed, TokenSequence, pack, per_token, sequence_of
from uniapl.models.scalar_model import ScalarModel
from uniapl.objective.adversarial import bradley_terry_loss, completion_credit, pair_accuracy
from uniapl.objective.constraint import smooth
from uniapl.objective.reductions import mean_group_std
from uniapl.types import MixedBatch, RolloutBatch

STD_SMOOTHING = 0.9
"""Weight of the past in the running group deviation."""

Pairs = Sequence[tuple[int, int]]
"""Indices of a better and a worse completion of one prompt in a list of sequences."""


class Scalar:
    """d(x, y) from the hidden state of a completion's last token; learns by Bradley-Terry in every step."""

    def __init__(self, recipe: Recipe, backbone: LanguageModel) -> None:
        self.config = recipe.config.discriminator
        self.mask_truncated = recipe.config.rollout.mask_truncated
        self.micro_batch_tokens = recipe.config.training.micro_batch_tokens
        self.model = ScalarModel(backbone)
        self.learner = Learner(self.model, self.config, recipe.config.optimizer)
        self.running_std: float | None = None

    def judge(
        self, batch: RolloutBatch, data: MixedBatch | None, policy_logprobs: PolicyLogprobs
    ) -> Judgement:
        """As `Discriminator.judge`; the expert's completions of the prompts are scored in the same forward.

        `data.pairs` add the mean loss over all of their own pairs.
        """
        rollouts = list(map(sequence_of, batch.rollouts))
        experts = [sequence_of(e) for e in batch.experts if e is not None]
        is_counted_GxN = self._is_counted(batch)
        num_pairs, size = len(experts), batch.group_size
        pairs = [
            (len(rollouts) + group, group * size + i)
            for group in range(num_pairs)
            for i in is_counted_GxN[group].nonzero().flatten().tolist()[
                : self.config.pairs_per_prompt
            ]
        ]
        sequences = [*rollouts, *experts]
        logits, loss = self._scores(sequences, pairs, learns=data is not None)
        logits_GxN, expert_logits_G = logits[: len(rollouts)].view(-1, size), logits[len(rollouts) :]
        found = health.spread_and_correlations(batch, logits_GxN, is_counted_GxN)
        found |= health.ranking(
            expert_logits_G, logits_GxN[:num_pairs], is_counted_GxN[:num_pairs]
        )
        if data is not None:
            added, accuracy = self._learn_pairs(data)
            found |= accuracy | {"discriminator/loss": loss + added}
            self._follow(logits_GxN, is_counted_GxN)
        credit_GxN = completion_credit(
            logits_GxN, is_counted_GxN, self.running_std or 0.0, self.config.std_floor
        )
        return Judgement(
            credit_T=per_token(credit_GxN.flatten(), rollouts),
            is_credited_T=per_token(is_counted_GxN.flatten(), rollouts),
            logits_GxN=logits_GxN,
            health=found,
        )

    def _is_counted(self, batch: RolloutBatch) -> Tensor:
        """[groups, group_size]: False on truncated rollouts, whose last token is not their end."""
        flags = [not (r.is_truncated and self.mask_truncated) for r in batch.rollouts]
        return torch.tensor(flags, device=self.learner.device).view(-1, batch.group_size)

    def _follow(self, logits_GxN: Tensor, is_counted_GxN: Tensor) -> None:
        std = mean_group_std(logits_GxN, is_counted_GxN)
        if std is not None:
            self.running_std = smooth(self.running_std, std, STD_SMOOTHING)

    def _scores(
        self, sequences: Sequence[TokenSequence], pairs: Pairs, *, learns: bool
    ) -> tuple[Tensor, float]:
        """Return d of every sequence [sequences], and the mean loss over the pairs, its gradient left if it learns."""
        in_pairs = sorted({i for pair in pairs for i in pair})
        others = sorted(set(range(len(sequences))) - set(in_pairs))
        logits = torch.full((len(sequences),), torch.nan, device=self.learner.device)
        loss = 0.0
        for members, with_gradient in ((in_pairs, learns), (others, False)):
            index = torch.tensor(members, dtype=torch.long, device=logits.device)
            for packed in self._pack([sequences[i] for i in members]):
                with torch.set_grad_enabled(with_gradient):
                    own = self.model.logits(packed)
                logits[index[packed.sequences]] = own.detach()
                if with_gradient:
                    loss += self._backward(own, index[packed.sequences], pairs)
        return logits, loss

    def _pack(self, sequences: Sequence[TokenSequence]) -> list[Packed]:
        """All completions of a prompt are in one micro-batch, so every pair is in one."""
        packed = pack(sequences, self.micro_batch_tokens, split_groups=False)
        return [p.to(self.learner.device) for p in packed]

    def _backward(self, logits: Tensor, members: Tensor, pairs: Pairs) -> float:
        """Add the gradient of the pairs in a micro-batch; return their share of the mean loss over all pairs."""
        place = {int(sequence): i for i, sequence in enumerate(members)}
        own = [(place[a], place[b]) for a, b in pairs if b in place]
        if not own:
            return 0.0
        better, worse = torch.tensor(own, device=logits.device).unbind(1)
        loss = bradley_terry_loss(
            logits[better], logits[worse], self.config.label_smoothing, self.config.logit_penalty
        ).sum() / len(pairs)
        loss.backward()
        return loss.item()

    def _learn_pairs(self, data: MixedBatch) -> tuple[float, dict[str, float]]:
        """Add the gradient of the user's pairs; return their loss, and how many are ranked right before it."""
        if not data.pairs:
            return 0.0, {}
        sequences = [
            TokenSequence(pair.prompt.token_ids, ids)
            for pair in data.pairs
            for ids in (pair.chosen_ids, pair.rejected_ids)
        ]
        pairs = [(2 * i, 2 * i + 1) for i in range(len(data.pairs))]
        logits, loss = self._scores(sequences, pairs, learns=True)
        accuracy = pair_accuracy(logits[0::2], logits[1::2]).mean().item()
        return loss, {"discriminator/pairs_accuracy": accuracy}

    def learn(self, learning_rate: float) -> dict[str, float]:
        """As `Discriminator.learn`."""
        return self.learner.update(learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """As `Discriminator.state_dict`."""
        return self.learner.state_dict() | {"running_std": self.running_std}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Discriminator.load_state_dict`."""
        self.learner.load_state_dict(state)
        self.running_std = state["running_std"]

    def save(self, folder: Path, chat: Chat, dtype: torch.dtype) -> bool:
        """Write a sequence-classification folder, where transformers has such a model of the architecture."""
        if self.model.can_be_saved:
            self.model.save(folder, chat.conversation_tokenizer(), dtype)
        return self.model.can_be_saved
