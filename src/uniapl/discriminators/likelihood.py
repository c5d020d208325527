"""`likelihood`: log p_φ - log π_old, with p_φ a second language model that learns the demonstrations."""

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
from uniapl.models.packing import completion_offsets, pack, per_token, sequence_of
from uniapl.objective.adversarial import (
    bradley_terry_loss,
    centred_credit,
    likelihood_logits,
    log_ratios,
    token_credit,
)
from uniapl.types import MixedBatch, RolloutBatch


class Likelihood:
    """The structured discriminator of AIRL (arXiv 1710.11248) over tokens."""

    def __init__(self, recipe: Recipe, model: LanguageModel) -> None:
        self.recipe = recipe
        self.config = recipe.config.discriminator
        self.mask_truncated = recipe.config.rollout.mask_truncated
        self.micro_batch_tokens = recipe.config.training.micro_batch_tokens
        self.model = model
        self.learner = Learner(model, self.config, recipe.config.optimizer)

    def judge(
        self, batch: RolloutBatch, data: MixedBatch | None, policy_logprobs: PolicyLogprobs
    ) -> Judgement:
        """As `Discriminator.judge`."""
        device, size = self.learner.device, batch.group_size
        experts = [e for e in batch.experts if e is not None]
        num_pairs = len(experts)
        if data is not None:
            experts = list(data.demonstrations[: self.recipe.num_shown])
        flags = [not (r.is_truncated and self.mask_truncated) for r in batch.rollouts]
        is_counted_GxN = torch.tensor(flags, device=device).view(-1, size)
        rollouts, shown = list(map(sequence_of, batch.rollouts)), list(map(sequence_of, experts))
        sequences = [*rollouts, *shown]
        offsets = completion_offsets(sequences)
        old = torch.full((offsets[-1],), torch.nan, device=device)
        if self.recipe.old_logprobs == "computed":
            known = policy_logprobs([*rollouts, *shown[:num_pairs]])
        else:
            sampled = [x for r in batch.rollouts for x in r.sampling_logprobs]
            known = torch.cat(
                [torch.tensor(sampled, device=device), policy_logprobs(shown[:num_pairs])]
            )
        old[: len(known)] = known
        pairs = [
            (len(rollouts) + group, group * size + i)
            for group in range(num_pairs)
            for i in is_counted_GxN[group].nonzero().flatten().tolist()[
                : self.config.pairs_per_prompt
            ]
        ]
        learned = [*(worse for _, worse in pairs), *range(len(rollouts), len(sequences))]
        others = sorted(set(range(len(sequences))) - set(learned))
        logits = torch.full((len(sequences),), torch.nan, device=device)
        ratios = torch.full_like(old, torch.nan)
        loss = 0.0
        for members, learns in ((learned, data is not None), (others, False)):
            index = torch.tensor(members, dtype=torch.long, device=device)
            places = [p for i in members for p in range(offsets[i], offsets[i + 1])]
            flat = torch.tensor(places, dtype=torch.long, device=device)
            part = [sequences[i] for i in members]
            for packed in pack(part, self.micro_batch_tokens, split_groups=False):
                packed = packed.to(device)
                own = flat[packed.token_index]
                with torch.set_grad_enabled(learns):
                    expert_logprobs = self.model.logprobs(packed)
                    k = log_ratios(expert_logprobs, old[own])
                    d = likelihood_logits(
                        k, packed.sequence_index, len(packed.sequences), self.config.logit_scale
                    )
                    if learns:
                        loss += self._backward(
                            d, expert_logprobs, packed.sequence_index, index[packed.sequences],
                            pairs, len(rollouts), sum(len(s.completion_ids) for s in shown),
                        )
                logits[index[packed.sequences]] = d.detach()
                ratios[own] = k.detach()
        logits_GxN, expert_logits = logits[: len(rollouts)].view(-1, size), logits[len(rollouts) :]
        found = health.spread_and_correlations(batch, logits_GxN, is_counted_GxN)
        found |= health.ranking(
            expert_logits[:num_pairs], logits_GxN[:num_pairs], is_counted_GxN[:num_pairs]
        )
        if data is not None:
            found["discriminator/loss"] = loss
        k = ratios[: offsets[len(rollouts)]]
        credit = token_credit(k, self.config.credit_clamp)
        if self.config.credit == "completion":
            means = logits_GxN / self.config.logit_scale
            credit = per_token(centred_credit(means, is_counted_GxN).flatten(), rollouts)
        return Judgement(credit, per_token(is_counted_GxN.flatten(), rollouts), logits_GxN, found)

    def _backward(
        self,
        logits: Tensor,
        expert_logprobs: Tensor,
        sequence_index: Tensor,
        members: Tensor,
        pairs: Sequence[tuple[int, int]],
        first_expert: int,
        num_expert_tokens: int,
    ) -> float:
        place = {int(sequence): i for i, sequence in enumerate(members)}
        own = [(place[a], place[b]) for a, b in pairs if b in place]
        loss = logits.new_zeros(())
        if own:
            better, worse = torch.tensor(own, device=logits.device).unbind(1)
            loss = loss + bradley_terry_loss(
                logits[better],
                logits[worse],
                self.config.label_smoothing,
                self.config.logit_penalty,
            ).sum() / max(len(pairs), 1)
        if self.config.likelihood_weight:
            is_expert = (members >= first_expert)[sequence_index]
            nll = -expert_logprobs[is_expert].sum() / max(num_expert_tokens, 1)
            loss = loss + self.config.likelihood_weight * nll
        if loss.requires_grad:
            loss.backward()
        return loss.item()

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
