"""The discriminator in the loop: it judges rollouts, then learns from the same forward."""

import math
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uniapl.config.schema import DiscriminatorConfig, OptimizerConfig
from uniapl.data.chat import Chat
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import Packed, TokenSequence, pack
from uniapl.models.scalar_model import ScalarModel
from uniapl.objective.adversarial import (
    bradley_terry_loss,
    centred_credit,
    completion_credit,
    likelihood_logits,
    log_ratios,
    pair_accuracy,
    token_credit,
)
from uniapl.objective.constraint import smooth
from uniapl.objective.reductions import group_correlation, mean_group_std
from uniapl.training.rollout_batch import RankedGroup, RolloutBatch, sequence_of
from uniapl.types import InputError, TrainingError

STD_SMOOTHING = 0.9
"""Weight of the past in the running group deviation of the scalar form."""


@dataclass(slots=True)
class Verdicts:
    """What the discriminator says of a rollout batch before it learns from it."""

    batch: RolloutBatch
    logits: Tensor
    """d of every sequence of the batch, [rollouts + experts]."""
    flat_ratios: Tensor | None
    """k_t, flat over rollouts and experts; None in the scalar form."""
    unscored: set[int]
    """Rollouts that wait for `Discriminator.score`; NaN stands in their places."""
    health: dict[str, float] = field(default_factory=dict)
    """`discriminator/*` metrics."""

    @property
    def rollout_logits(self) -> Tensor:
        """Return d of every rollout, [groups, group_size]."""
        return self.logits[: len(self.batch.rollouts)].view(-1, self.batch.group_size)

    @property
    def expert_logits(self) -> Tensor:
        """Return d of the paired experts, [pairs]."""
        return self.logits[len(self.batch.rollouts) :][: self.batch.num_pairs]

    @property
    def ratios(self) -> Tensor | None:
        """Return k_t, flat over rollouts; None in the scalar form."""
        if self.flat_ratios is None:
            return None
        return self.flat_ratios[: self.batch.num_rollout_tokens]


class Discriminator:
    """d_φ(x, y) in either form, its optimiser and what it remembers."""

    def __init__(
        self,
        config: DiscriminatorConfig,
        optimizer: OptimizerConfig,
        backbone: LanguageModel,
        micro_batch_tokens: int,
        seed: int,
    ) -> None:
        self.config = config
        self.micro_batch_tokens = micro_batch_tokens
        self.seed = seed
        self.model: LanguageModel | ScalarModel = (
            ScalarModel(backbone) if config.form == "scalar" else backbone
        )
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            betas=(optimizer.beta1, optimizer.beta2),
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self.running_std: float | None = None
        self.replay: deque[RankedGroup] = deque()
        self._learned_from: RolloutBatch | None = None
        self._replayed: list[RankedGroup] = []
        """What is replayed beside that batch, the same in all passes over it."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The weights that learn."""
        return self.model.trainable_parameters()

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.parameters[0].device

    def judge(
        self,
        batch: RolloutBatch,
        *,
        learn: bool,
        pairs: Sequence[RankedGroup] = (),
        scores_others: bool = True,
    ) -> Verdicts:
        """Score a batch; with `learn`, the same forward leaves the gradient of its loss in the weights.

        Rollouts on demonstration prompts are paired with the expert's completion; truncated ones that
        are masked take part in no pair. All others are scored only. Only the first pass over a
        batch measures health: afterwards the discriminator knows these rollouts.

        Args:
            pairs: Only `scalar`, with `learn`: chosen and rejected completions. Like the replayed rollouts they add
                the mean loss over all of their own pairs, however many the batch has.
            scores_others: Score the rollouts in no pair too; else they wait for `score`, and so does health.
        """
        num_sequences = len(batch.rollouts) + len(batch.experts)
        loss_scale = _LossScale.of(batch, self.config.pairs_per_prompt)
        learned = [*loss_scale.learned_rollouts, *range(len(batch.rollouts), num_sequences)]
        others = sorted(set(range(num_sequences)) - set(learned))
        nan = torch.full((num_sequences + batch.offsets()[-1],), torch.nan, device=self.device)
        logits, ratios = nan[:num_sequences], nan[num_sequences:]
        is_likelihood = self.config.form == "likelihood"
        verdicts = Verdicts(batch, logits, ratios if is_likelihood else None, set(others))
        loss = self._score(verdicts, learned, loss_scale if learn else None)
        is_fresh = batch is not self._learned_from
        if learn:
            if is_fresh:
                self._learned_from, self._replayed = batch, self._draw_replay(batch)
            loss += self._learn_from(self._replayed)[0]
        if scores_others:
            self._score(verdicts, others)
            verdicts.unscored.clear()
        if is_fresh and not verdicts.unscored:
            verdicts.health = _health(verdicts)
        if learn and pairs:
            added, verdicts.health["discriminator/pairs_accuracy"] = self._learn_from(pairs)
            loss += added
        if learn:
            verdicts.health["discriminator/loss"] = loss
        return verdicts

    def learned_rollouts(self, batch: RolloutBatch) -> list[int]:
        """Return which rollouts of a batch are in the pairs that it learns from."""
        return _LossScale.of(batch, self.config.pairs_per_prompt).learned_rollouts

    def score(self, verdicts: Verdicts, rollouts: Collection[int]) -> None:
        """Score those of the rollouts that `judge` left; what it learns from them stays the same.

        With the last of them health is known too.
        """
        left = sorted(verdicts.unscored.intersection(rollouts))
        if left:
            self._score(verdicts, left)
            verdicts.unscored.difference_update(left)
            if not verdicts.unscored:
                verdicts.health = _health(verdicts) | verdicts.health

    def _score(
        self, verdicts: Verdicts, members: Sequence[int], learns: "_LossScale | None" = None
    ) -> float:
        """Forward sequences and note what it says of them; return the loss if it learns."""
        batch, loss = verdicts.batch, 0.0
        sequences = batch.sequences
        index = torch.tensor(members, dtype=torch.long, device=self.device)
        flat = batch.token_places(members, self.device)
        part = [sequences[i] for i in members]
        for packed in pack(part, self.micro_batch_tokens, split_groups=False):
            packed = packed.to(self.device)
            places = flat[packed.token_index]
            with torch.set_grad_enabled(learns is not None):
                scores = self._forward(packed, batch.old_logprobs, places)
                if learns is not None:
                    loss += self._backward(packed, scores, index, batch, learns)
            verdicts.logits[index[packed.sequences]] = scores.logits.detach()
            if scores.ratios is not None and verdicts.flat_ratios is not None:
                verdicts.flat_ratios[places] = scores.ratios.detach()
        return loss

    def _forward(self, packed: Packed, old_logprobs: Tensor | None, places: Tensor) -> "_Scores":
        if isinstance(self.model, ScalarModel):
            return _Scores(self.model.logits(packed))
        assert old_logprobs is not None
        expert_logprobs = self.model.logprobs(packed)
        ratios = log_ratios(expert_logprobs, old_logprobs[places])
        logits = likelihood_logits(
            ratios, packed.sequence_index, len(packed.sequences), self.config.logit_scale
        )
        return _Scores(logits, ratios, expert_logprobs)

    def _backward(
        self,
        packed: Packed,
        scores: "_Scores",
        index: Tensor,
        batch: RolloutBatch,
        scale: "_LossScale",
    ) -> float:
        """Add the gradient of this micro-batch's pairs and expert tokens; return its share of the loss."""
        place = {int(s): i for i, s in enumerate(index[packed.sequences])}
        first_expert = len(batch.rollouts)
        pairs = [
            (place[first_expert + r // batch.group_size], place[r])
            for r in sorted(place)
            if r < first_expert
        ]
        loss = scores.logits.new_zeros(())
        if pairs:
            experts, rollouts = torch.tensor(pairs, device=self.device).unbind(1)
            loss = loss + self._pair_loss(scores.logits[experts], scores.logits[rollouts]) / max(
                len(scale.learned_rollouts), 1
            )
        if scores.expert_logprobs is not None and self.config.likelihood_weight:
            is_expert = (index[packed.sequences] >= first_expert)[packed.sequence_index]
            nll = -scores.expert_logprobs[is_expert].sum() / max(scale.num_expert_tokens, 1)
            loss = loss + self.config.likelihood_weight * nll
        if loss.requires_grad:
            loss.backward()
        return loss.item()

    def _pair_loss(self, expert_logits: Tensor, rollout_logits: Tensor) -> Tensor:
        return bradley_terry_loss(
            expert_logits, rollout_logits, self.config.label_smoothing, self.config.logit_penalty
        ).sum()

    def learn(self) -> float:
        """Update the weights with the gradient that `judge` left; return its norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"discriminator: gradient norm is {norm.item()}; lower discriminator.learning_rate"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.item()

    def credit(self, batch: RolloutBatch, verdicts: Verdicts) -> Tensor:
        """A_adv of every rollout token, flat over rollouts."""
        logits, is_counted = verdicts.rollout_logits, batch.is_counted(self.device)
        if verdicts.ratios is not None:
            if self.config.credit == "token":
                return token_credit(verdicts.ratios, self.config.credit_clamp)
            # without τ, so that λ means the same per token and per completion
            return batch.per_rollout_token(
                centred_credit(logits / self.config.logit_scale, is_counted)
            )
        std = mean_group_std(logits, is_counted)
        if std is not None:
            self.running_std = smooth(self.running_std, std, STD_SMOOTHING)
        advantages = completion_credit(
            logits, is_counted, self.running_std or 0.0, self.config.std_floor
        )
        return batch.per_rollout_token(advantages)

    def _draw_replay(self, batch: RolloutBatch) -> list[RankedGroup]:
        """Choose as many older groups as are fresh, then remember the fresh ones."""
        fresh = [
            RankedGroup(
                sequence_of(batch.experts[i]),
                tuple(
                    sequence_of(r)
                    for r in batch.rollouts[i * batch.group_size : (i + 1) * batch.group_size]
                    if not (r.is_truncated and batch.mask_truncated)
                )[: self.config.pairs_per_prompt],
            )
            for i in range(batch.num_pairs)
        ]
        chosen = np.random.default_rng([self.seed, self._num_updates]).choice(
            len(self.replay), size=min(len(fresh), len(self.replay)), replace=False
        )
        drawn = [self.replay[i] for i in sorted(chosen)]
        self.replay.extend(group for group in fresh if group.others)
        while sum(len(g.others) for g in self.replay) > self.config.replay_rollouts:
            self.replay.popleft()
        return drawn

    def _learn_from(self, groups: Sequence[RankedGroup]) -> tuple[float, float]:
        """Add the gradient of the mean loss over all pairs of the groups.

        Returns:
            That loss, and the share of the pairs that are ranked right (ties half) before any update.
        """
        sequences: list[TokenSequence] = []
        pairs: list[tuple[int, int]] = []
        for group in groups:
            first = len(sequences)
            sequences += [group.best, *group.others]
            pairs += [(first, other) for other in range(first + 1, len(sequences))]
        total = num_right = 0.0
        # all completions of a prompt are in one micro-batch, so every pair is in one
        for packed in pack(sequences, self.micro_batch_tokens, split_groups=False):
            assert isinstance(self.model, ScalarModel)
            place = {int(s): i for i, s in enumerate(packed.sequences)}
            own = [(place[best], place[other]) for best, other in pairs if best in place]
            best, others = torch.tensor(own, device=self.device).unbind(1)
            logits = self.model.logits(packed.to(self.device))
            loss = self._pair_loss(logits[best], logits[others]) / len(pairs)
            loss.backward()
            total += loss.item()
            num_right += pair_accuracy(logits[best], logits[others]).sum().item()
        return total, num_right / max(len(pairs), 1)

    @property
    def _num_updates(self) -> int:
        state = self.optimizer.state
        return int(next(iter(state.values()))["step"]) if state else 0

    def _named_parameters(self) -> dict[str, nn.Parameter]:
        """Return the weights that learn by name; a shared backbone is nobody's to save."""
        learning = set(map(id, self.parameters))
        return {n: p for n, p in self.model.named_parameters() if id(p) in learning}

    @property
    def can_be_saved(self) -> bool:
        """Whether `save` has a form in which others can open the model."""
        return not isinstance(self.model, ScalarModel) or self.model.can_be_saved

    def save(self, folder: Path, chat: Chat, dtype: torch.dtype) -> None:
        """Write a model folder: a sequence classifier, or the language model p_φ of the likelihood form."""
        is_scalar = isinstance(self.model, ScalarModel)
        tokenizer = chat.conversation_tokenizer() if is_scalar else chat.tokenizer
        self.model.save(folder, tokenizer, dtype)

    def state_dict(self) -> dict[str, Any]:
        """Everything that moves."""
        return {
            "model": {name: p.detach() for name, p in self._named_parameters().items()},
            "optimizer": self.optimizer.state_dict(),
            "running_std": self.running_std,
            "replay": [
                [(list(s.prompt_ids), list(s.completion_ids)) for s in (g.best, *g.others)]
                for g in self.replay
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        own = self._named_parameters()
        if own.keys() != state["model"].keys():
            raise InputError("the checkpoint's discriminator has other weights than this run's")
        for name, parameter in own.items():
            parameter.data.copy_(state["model"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.running_std = state["running_std"]
        self.replay = deque()
        for group in state["replay"]:
            best, *others = (TokenSequence(tuple(p), tuple(c)) for p, c in group)
            self.replay.append(RankedGroup(best, tuple(others)))


@dataclass(slots=True)
class _Scores:
    """The forward of one micro-batch."""

    logits: Tensor
    ratios: Tensor | None = None
    expert_logprobs: Tensor | None = None


@dataclass(slots=True)
class _LossScale:
    """Counts of the whole batch, so that micro-batches add up to the mean."""

    learned_rollouts: list[int]
    """Indices of the rollouts in pairs."""
    num_expert_tokens: int

    @classmethod
    def of(cls, batch: RolloutBatch, pairs_per_prompt: int | None) -> "_LossScale":
        counted = batch.is_counted(torch.device("cpu"))[: batch.num_pairs].tolist()
        learned = [
            [group * batch.group_size + i for i, counts in enumerate(flags) if counts]
            for group, flags in enumerate(counted)
        ]
        return cls(
            # siblings are drawn alike, so the first ones are as good as any
            learned_rollouts=[r for group in learned for r in group[:pairs_per_prompt]],
            num_expert_tokens=sum(len(d.token_ids) for d in batch.experts),
        )


def num_experts_shown(config: DiscriminatorConfig, num_pairs: int) -> int | None:
    """Return how many of a step's demonstrations the discriminator is given, those in pairs first; None: all."""
    count = config.demonstrations_per_step
    return num_pairs if config.form == "scalar" or count == "paired" else count


def _health(verdicts: Verdicts) -> dict[str, float]:
    batch, logits = verdicts.batch, verdicts.rollout_logits
    is_counted = batch.is_counted(logits.device)
    health = {
        "discriminator/group_std": mean_group_std(logits, is_counted) or 0.0,
        "discriminator/length_correlation": group_correlation(
            logits, _lengths(batch, logits), is_counted
        ),
    }
    if batch.rewards:
        rewards, has_reward = batch.reward_table(logits.device)
        health["discriminator/reward_correlation"] = group_correlation(
            logits, rewards, has_reward & is_counted
        )
    pairs = is_counted[: batch.num_pairs]
    if pairs.any():
        experts = verdicts.expert_logits[:, None].expand_as(pairs)[pairs]
        rollouts = logits[: batch.num_pairs][pairs]
        health["discriminator/accuracy"] = pair_accuracy(experts, rollouts).mean().item()
        health["discriminator/margin"] = (experts - rollouts).mean().item()
        health["discriminator/demonstration_logit"] = rollouts.mean().item()
    preference = is_counted[batch.num_pairs :]
    if preference.any():
        health["discriminator/preference_logit"] = (
            logits[batch.num_pairs :][preference].mean().item()
        )
    return {k: v for k, v in health.items() if math.isfinite(v)}


def _lengths(batch: RolloutBatch, like: Tensor) -> Tensor:
    lengths = [float(len(r.token_ids)) for r in batch.rollouts]
    return torch.tensor(lengths, device=like.device).view_as(like)
