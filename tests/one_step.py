"""One step of the trainer on a hand-made batch, in double precision, and the same step written plainly.

The plain step forwards one sequence at a time and writes each term for itself, token by token.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from exact import (
    RandomTexts,
    RecordingOptimizer,
    config,
    demonstration,
    double,
    exact_policy,
    gradients,
    plain_logprobs,
    prompt,
    sequences_of,
)
from torch import Tensor

from uniapl.config.recipe import Recipe, TermWeights
from uniapl.data.mixture import Mixture
from uniapl.discriminators import Judgement
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import sequence_of
from uniapl.training.batch import StepData, flat_logprobs
from uniapl.training.players import Players
from uniapl.training.step import Trainer
from uniapl.types import Demonstration, MixedBatch, RolloutBatch

WEIGHTS = TermWeights(sft=0.3, grpo=1.0, adversarial=0.4, kl=0.05)


@pytest.fixture(autouse=True)
def in_double() -> Iterator[None]:
    with double():
        yield


def recipe(micro_batch_tokens: int = 10_000, **sections: Any) -> Recipe:
    """A run whose rollouts are two updates old at most, so that every kind of ratio is allowed."""
    given = {
        "rollout": {"temperature": 0.7, "updates_per_rollout": 2, "max_completion_tokens": 9},
        "objective": {"clip_low": 0.1, "clip_high": 0.2},
        "training": {
            "steps": 10,
            "micro_batch_tokens": micro_batch_tokens,
            "checkpoint_every": 0,
        },
        "optimizer": {"learning_rate": 0.05},
    }
    for name, section in sections.items():
        given[name] = {**given.get(name, {}), **section}
    return Recipe.of(config(**given))


def demonstrations() -> list[Demonstration]:
    """Of new prompts, and one of a prompt that is rolled out too."""
    return [
        demonstration(prompt(5, 6, 7), 35, 36, 4),
        demonstration(prompt(20), 21, 22, 23, 24, 4),
        demonstration(prompt(20, 21), 4),
    ]


@dataclass
class Fixed:
    """A discriminator that always says the same and learns nothing: written here, known to no other file."""

    judgement: Judgement

    def judge(self, batch: RolloutBatch, data: MixedBatch, policy_logprobs: Any) -> Judgement:
        return self.judgement

    def measure(self, held_out: RolloutBatch, policy_logprobs: Any) -> Mapping[str, float]:
        return {}

    def learn(self, learning_rate: float) -> Mapping[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state == {}

    def save(self, folder: Path, chat: Any, dtype: torch.dtype) -> bool:
        return False


def some_judgement(batch: RolloutBatch) -> Judgement:
    """Random credit on every rollout but the fifth, whose credit is NaN and does not count."""
    generator = torch.Generator().manual_seed(3)
    is_credited = [i != 4 for i, r in enumerate(batch.rollouts) for _ in r.token_ids]
    is_credited_T = torch.tensor(is_credited)
    credit_T = torch.randn(batch.num_tokens, generator=generator)
    logits_GxN = torch.randn(len(batch.rollouts), generator=generator).view(-1, batch.group_size)
    return Judgement(is_credited_T, credit_T.masked_fill(~is_credited_T, torch.nan), logits_GxN)


class Step:
    """A policy, an optimiser that records, and one batch: as many steps of the trainer as asked."""

    def __init__(
        self,
        batch: RolloutBatch | None,
        *,
        weights: TermWeights = WEIGHTS,
        experts: Sequence[Demonstration] | None = None,
        has_credit: bool = True,
        moves: bool = False,
        recipe_: Recipe | None = None,
    ) -> None:
        self.recipe = recipe_ or recipe()
        self.batch, self.weights = batch, weights
        self.experts = demonstrations() if experts is None else list(experts)
        self.policy = exact_policy()
        self.judgement = some_judgement(batch) if batch and has_credit else None
        made = Fixed(self.judgement) if self.judgement else None
        players = Players(self.policy, RandomTexts(), made, None, [])
        mixture = Mixture(demonstrations(), [], seed=0)
        self.trainer = Trainer(self.recipe, players, mixture, [])
        self.optimizer = RecordingOptimizer(self.policy, moves=moves)
        self.trainer.optimizer = self.optimizer  # type: ignore[assignment]
        self.trainer.weights = weights
        self.ref_logprobs_T = None
        if batch and weights.kl:
            self.ref_logprobs_T = flat_logprobs(
                exact_policy(seed=1), sequences_of(batch), self.recipe
            )

    def __call__(self, old_logprobs_T: Tensor | None = None) -> dict[str, float | None]:
        """Take a step on the batch; π_old is the policy as it is, or what is given."""
        data = StepData(
            drawn=MixedBatch(tuple(self.experts), ()),
            rollouts=self.batch,
            old_logprobs_T=old_logprobs_T,
            ref_logprobs_T=self.ref_logprobs_T,
        )
        self.trainer.parts.append(data)
        metrics = self.trainer.train_step().metrics
        self.trainer.weights = self.weights
        return {n: v for n, v in metrics.items() if not n.startswith("time/")}

    @property
    def gradients(self) -> dict[str, Tensor]:
        return self.optimizer.last


def plain_advantages(batch: RolloutBatch, scale: str) -> list[float | None]:
    """A_reward of each rollout, None without a reward."""
    everything = [r.total for r in batch.rewards if r.total is not None]
    found: list[float | None] = []
    for start in range(0, len(batch.rollouts), batch.group_size):
        totals = [r.total for r in batch.rewards[start : start + batch.group_size]]
        known = [t for t in totals if t is not None]
        for total in totals:
            if total is None:
                found.append(None)
            elif len(set(known)) == 1:
                found.append(0.0)
            else:
                spread = {
                    "group": statistics.stdev(known) + 1e-4,
                    "batch": statistics.stdev(everything) + 1e-4,
                    "none": 1.0,
                }[scale]
                found.append((total - statistics.mean(known)) / spread)
    return found


def plain_num_rewarded(batch: RolloutBatch, recipe_: Recipe, is_masked: Sequence[bool]) -> int:
    """N_reward, counted rollout by rollout."""
    rollout, kind = recipe_.config.rollout, recipe_.config.objective.reward_normalisation
    count = 0
    for i, sample in enumerate(batch.rollouts):
        first = i - i % batch.group_size
        known = {r.total for r in batch.rewards[first : first + batch.group_size]} - {None}
        if batch.rewards[i].total is None or is_masked[i]:
            continue
        if kind == "constant":
            count += rollout.max_completion_tokens
        elif kind == "tokens" or len(known) > 1:
            count += len(sample.token_ids)
    return count


@dataclass
class PlainToken:
    """What one rollout token adds."""

    value: Tensor
    """What its weight is multiplied by, to be maximised."""
    reward_weight: float
    expert_weight: float
    is_clipped: bool


def plain_tokens(
    step: Step, policy: LanguageModel, old: Sequence[Tensor] | None
) -> Iterator[tuple[int, PlainToken, Tensor]]:
    """Yield rollout, token and log-prob, one after another."""
    batch, weights, config_ = step.batch, step.weights, step.recipe.config
    assert batch is not None
    advantages = plain_advantages(batch, config_.objective.advantage_scale)
    is_masked = [r.is_truncated and config_.rollout.mask_truncated for r in batch.rollouts]
    num_rewarded = plain_num_rewarded(batch, step.recipe, is_masked)
    judged = step.judgement
    num_credited = int(judged.is_credited_T.sum()) if judged else 0
    kind, place = config_.objective.policy_gradient, 0
    for i, sample in enumerate(batch.rollouts):
        now = plain_logprobs(policy.model, sequence_of(sample), config_.rollout.temperature)
        before = now.detach() if old is None else old[i]
        shared = (now.detach() - before).mean().exp()
        for t in range(len(now)):
            advantage = None if is_masked[i] else advantages[i]
            reward_part = 0.0 if advantage is None else weights.grpo * advantage / num_rewarded
            expert_part = 0.0
            if judged and judged.is_credited_T[place]:
                assert judged.credit_T is not None
                expert_part = weights.adversarial * judged.credit_T[place].item() / num_credited
            if cap := config_.rollout.importance_cap:
                importance = min(math.exp(before[t].item() - sample.sampling_logprobs[t]), cap)
                reward_part, expert_part = reward_part * importance, expert_part * importance
            ratio = (now[t] - before[t]).exp()
            if kind == "gspo":  # the sequence's ratio, with the token's gradient
                ratio = shared * (now[t] - now[t].detach()).exp()
            value, is_clipped = clipped(ratio, reward_part + expert_part, step.recipe)
            if kind == "cispo":
                lowest, highest = bounds(step.recipe)
                value = ratio.detach().clamp(lowest, highest) * now[t]
            yield i, PlainToken(value, reward_part, expert_part, is_clipped), now[t]
            place += 1


def bounds(recipe_: Recipe) -> tuple[float, float]:
    objective = recipe_.config.objective
    return 1 - objective.clip_low, 1 + objective.clip_high


def clipped(ratio: Tensor, weight: float, recipe_: Recipe) -> tuple[Tensor, bool]:
    """The ratio as PPO and the dual clip leave it for a weight, and whether they cut it."""
    lowest, highest = bounds(recipe_)
    limit = highest if weight > 0 else 3.0 if ratio > 3.0 else lowest
    is_clipped = ratio > highest if weight > 0 else bool(ratio < lowest or ratio > 3.0)
    if weight and is_clipped:
        return torch.tensor(limit), True
    return ratio, False


def separate_losses(
    step: Step, policy: LanguageModel, old: Sequence[Tensor] | None
) -> tuple[dict[str, Tensor], list[bool]]:
    """The three terms and the KL, each written for itself; whether each weighted token is clipped.

    The clip is the only thing they share: it is decided on the sum of their weights.
    """
    batch, weights = step.batch, step.weights
    losses = {name: torch.zeros(()) for name in ("sft", "grpo", "adversarial", "kl")}
    cut: list[bool] = []
    if batch is not None:
        masks = step.recipe.config.rollout.mask_truncated
        is_penalised = [not (r.is_truncated and masks) for r in batch.rollouts]
        lengths = [len(r.token_ids) for r in batch.rollouts]
        num_penalised = sum(n for n, counts in zip(lengths, is_penalised, strict=True) if counts)
        for place, (i, token, now) in enumerate(plain_tokens(step, policy, old)):
            if token.reward_weight + token.expert_weight:
                cut.append(token.is_clipped)
            losses["grpo"] = losses["grpo"] - token.value * token.reward_weight
            losses["adversarial"] = losses["adversarial"] - token.value * token.expert_weight
            if step.ref_logprobs_T is not None and is_penalised[i]:
                log_ratio = step.ref_logprobs_T[place] - now
                k3 = log_ratio.exp() - 1 - log_ratio
                losses["kl"] = losses["kl"] + weights.kl / num_penalised * k3
    num_sft = sum(len(d.token_ids) for d in step.experts)
    for expert in step.experts if weights.sft else ():
        logprobs = plain_logprobs(policy.model, sequence_of(expert))
        losses["sft"] = losses["sft"] - weights.sft / num_sft * logprobs.sum()
    return losses, cut


def reference(
    step: Step, policy: LanguageModel, old: Sequence[Tensor] | None = None
) -> tuple[float, dict[str, dict[str, Tensor]], list[bool]]:
    """The sum of the separate losses, the gradient of each, and what is clipped."""
    losses, cut = separate_losses(step, policy, old)
    found: dict[str, dict[str, Tensor]] = {}
    for name, loss in losses.items():
        if loss.requires_grad:
            loss.backward(retain_graph=True)  # the rollouts' terms share their forwards
        found[name] = gradients(policy)
    return sum(loss.item() for loss in losses.values()), found, cut


def total(parts: Mapping[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Sum gradients over terms."""
    names = next(iter(parts.values()))
    return {name: sum(part[name] for part in parts.values()) for name in names}  # type: ignore[misc]
