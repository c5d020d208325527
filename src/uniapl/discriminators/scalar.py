"""`scalar`: a head on the last token, ranked against the expert's completion (GAD, arXiv 2511.10643)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uniapl.config.recipe import Recipe
from uniapl.data.chat import Chat
from uniapl.discriminators.health import ranking
from uniapl.discriminators.learner import Learner
from uniapl.discriminators.protocol import Judgement, PolicyLogprobs
from uniapl.discriminators.scoring import judge_completions
from uniapl.distributed import ALONE, Ranks
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import Packed, TokenSequence, pack, sequence_of
from uniapl.models.scalar_model import ScalarModel
from uniapl.objective.adversarial import bradley_terry_loss, pair_accuracy
from uniapl.types import MixedBatch, RolloutBatch

Pairs = Sequence[tuple[int, int]]
"""Indices of a better and a worse completion of one prompt in a list of sequences."""


class Scalar:
    """d(x, y) from the hidden state of a completion's last token; learns by Bradley-Terry in every step."""

    def __init__(self, recipe: Recipe, backbone: LanguageModel, ranks: Ranks = ALONE) -> None:
        self.micro_batch_tokens = recipe.config.training.micro_batch_tokens
        self.model = ScalarModel(backbone)
        self.ranks = ranks
        self.learner = Learner(self.model, recipe, ranks)
        self.running_std: float | None = None

    def judge(
        self, batch: RolloutBatch, data: MixedBatch, policy_logprobs: PolicyLogprobs
    ) -> Judgement:
        """As `Discriminator.judge`; the expert's completions of the same prompts are scored in the same forward.

        The user's `data.pairs` add a loss of their own, the mean over them. A truncated rollout is neither ranked nor
        credited, since its last token is not its end. The same holds for the expert's completion in a group.
        """
        logits_GxN, is_whole_GxN, found, loss = self._rank(batch, learns=True)
        added, accuracy = self._learn_pairs(data)
        found |= accuracy | {"loss": loss + added}
        judgement, self.running_std = judge_completions(
            batch, logits_GxN, is_whole_GxN, self.running_std, found
        )
        return judgement

    def measure(self, held_out: RolloutBatch, policy_logprobs: PolicyLogprobs) -> dict[str, float]:
        """Return how often it ranks held-out demonstrations above rollouts of their prompts."""
        if not held_out.rollouts:
            return {}
        *_, found, _ = self._rank(held_out, learns=False)
        return {f"discriminator/held_out_{name}": value for name, value in found.items()}

    def _rank(
        self, batch: RolloutBatch, *, learns: bool
    ) -> tuple[Tensor, Tensor, dict[str, float], float]:
        """Return d of the rollouts, which of them count, how the experts rank above them, and the loss."""
        rollouts = list(map(sequence_of, batch.rollouts))
        experts = [sequence_of(e) for e in batch.experts if e is not None]
        size, num_paired = batch.group_size, len(experts)
        flags = [not (r.is_truncated or r.is_expert) for r in batch.rollouts]
        is_whole_GxN = torch.tensor(flags, device=self.learner.device).view(-1, size)
        pairs = [
            (len(rollouts) + group, group * size + i)
            for group, is_whole in enumerate(is_whole_GxN[:num_paired].tolist())
            for i in range(size)
            if is_whole[i]
        ]
        logits, loss = self._scores([*rollouts, *experts], pairs, learns=learns)
        logits_GxN = logits[: len(rollouts)].view(-1, size)
        found = ranking(logits[len(rollouts) :], logits_GxN[:num_paired], is_whole_GxN[:num_paired])
        return logits_GxN, is_whole_GxN, found, loss

    def _scores(
        self, sequences: Sequence[TokenSequence], pairs: Pairs, *, learns: bool
    ) -> tuple[Tensor, float]:
        """Return d of every sequence [sequences], and the mean loss over the pairs, its gradient left if it learns."""
        in_pairs = sorted({i for pair in pairs for i in pair})
        others = sorted(set(range(len(sequences))) - set(in_pairs))
        logits = self.ranks.blank(len(sequences), self.learner.device)
        loss = 0.0
        for members, with_gradient in ((in_pairs, learns), (others, False)):
            index = torch.tensor(members, dtype=torch.long, device=logits.device)
            micro_batches = self._pack([sequences[i] for i in members])
            for packed, is_own in self.ranks.deal(micro_batches):
                with torch.set_grad_enabled(with_gradient):
                    own = self.model.logits(packed)
                if not is_own:
                    if with_gradient:
                        (own.sum() * 0).backward()
                    continue
                logits[index[packed.sequences]] = own.detach()
                if with_gradient:
                    loss += self._backward(own, index[packed.sequences], pairs)
        self.ranks.sum_([logits], "the discriminator's logits")
        return logits, self.ranks.sums({"loss": loss}, "the discriminator's loss")["loss"]

    def _pack(self, sequences: Sequence[TokenSequence]) -> list[Packed]:
        """Pack all completions of a prompt into one micro-batch, so that a pair is never divided."""
        packed = pack(sequences, self.micro_batch_tokens, split_groups=False)
        return [p.to(self.learner.device) for p in packed]

    def _backward(self, logits: Tensor, members: Tensor, pairs: Pairs) -> float:
        """Add the gradient of the pairs in a micro-batch; return their share of the mean loss over all pairs."""
        place = {int(sequence): i for i, sequence in enumerate(members)}
        own = [(place[a], place[b]) for a, b in pairs if b in place]
        if not own:
            return 0.0
        better, worse = torch.tensor(own, device=logits.device).unbind(1)
        loss = bradley_terry_loss(logits[better], logits[worse]).sum() / len(pairs)
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
        return loss, {"pairs_accuracy": accuracy}

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
