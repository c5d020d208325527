"""The single-stage loop: every step learns from demonstrations, rewards and the discriminator at once."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from uniapl.config.recipe import Recipe, TermWeights
from uniapl.data.mixture import Mixture, Stream
from uniapl.discriminators import Judgement
from uniapl.discriminators.health import reward_table, step_health
from uniapl.models.adamw import adamw
from uniapl.objective.advantages import zero_std_fraction
from uniapl.objective.reductions import group_std
from uniapl.objective.unified import Scale
from uniapl.rewards import TrainerState
from uniapl.training.batch import StepData, draw_batch, flat_logprobs, shaped
from uniapl.training.multiplier import Multiplier
from uniapl.training.pairs import accumulate_pairs
from uniapl.training.players import Players
from uniapl.training.stopwatch import Stopwatch
from uniapl.training.term_gradients import TermGradients
from uniapl.training.update import (
    Metrics,
    StepTokens,
    accumulate,
    anything_counts,
    apply,
    step_scale,
)
from uniapl.types import Demonstration, RolloutBatch


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step did."""

    step: int
    """Updates done, this one included."""
    metrics: Metrics
    rollouts: RolloutBatch | None
    tokens: StepTokens | None
    judgement: Judgement | None
    old_logprobs_T: Tensor
    """log π_old of the rollouts' tokens, nats."""


class Trainer:
    """Holds everything that moves and takes one step at a time.

    Example:
        trainer = build_trainer(recipe, policy, chat, data, rewards)
        while trainer.step < recipe.config.training.steps:
            result = trainer.train_step()
    """

    def __init__(
        self, recipe: Recipe, players: Players, mixture: Mixture, held_out: Sequence[Demonstration]
    ) -> None:
        """Start before the first step.

        Args:
            recipe: The run.
            players: Who takes part.
            mixture: Where demonstrations, prompts and pairs come from.
            held_out: Demonstrations that nothing learns; they tell whether the discriminator is right.
        """
        config = recipe.config
        self.recipe = recipe
        self.players = players
        self.mixture = mixture
        self.held_out = Stream("held-out demonstrations", held_out, config.seed)
        self.optimizer = adamw(players.policy.trainable_parameters(), config.optimizer.weight_decay)
        self.step = 0
        """Optimiser updates done."""
        self.parts: deque[StepData] = deque()
        """What is left of the last batch: a part for each of the coming steps."""
        self.multiplier = Multiplier(recipe)
        self.weights = self._weights_now()
        """The terms' weights while the last batch serves."""
        self.trained_tokens = 0
        self.sampled_tokens = 0

    def train_step(self) -> StepResult:
        """Take one step: draw and sample, judge, weigh, update, let the discriminator learn, move λ.

        Raises:
            TrainingError: A loss or gradient is not finite, or a reward function fails.
        """
        recipe, policy, discriminator = self.recipe, self.players.policy, self.players.discriminator
        ranks, clock = self.players.ranks, Stopwatch()
        with clock("rollout"):
            if not self.parts:
                # a closed gate stops the term, not the rollouts: they tell when it may open again
                weights = self._weights_now()
                drawn = draw_batch(
                    recipe, self.players, self.mixture, self.held_out, weights, self.state
                )
                self.parts.extend(drawn)
                is_closed = self.multiplier.is_closed
                self.weights = replace(weights, adversarial=0.0) if is_closed else weights
            data, weights = self.parts.popleft(), self.weights

        judgement: Judgement | None = None
        health: Mapping[str, float] = {}
        with clock("discriminator"):
            if discriminator and data.rollouts:
                logprobs = partial(flat_logprobs, policy, recipe=recipe, ranks=ranks)
                judgement = discriminator.judge(data.rollouts, data.drawn, logprobs)
                if data.held_out:
                    health = discriminator.measure(data.held_out, logprobs)
                if recipe.shapes_reward:
                    data = shaped(data, judgement, weights.adversarial)
                    weights = replace(weights, adversarial=0.0)

        with clock("update"):
            experts = data.drawn.demonstrations if weights.sft else ()
            tokens = StepTokens.of(data, judgement, recipe, policy.device)
            scale = step_scale(recipe, weights, experts, tokens)
            by_term = self._term_gradients()
            metrics, old_logprobs_T = accumulate(
                policy, experts, tokens, scale, recipe, by_term=by_term, ranks=ranks
            )
            if weights.pairs:
                metrics = self._learn_pairs(metrics, data, weights.pairs, by_term)
            ranks.sum_gradients(policy.trainable_parameters(), "the policy's gradients")
            if by_term:
                by_term.sum_over(ranks)
                metrics |= by_term.metrics()
            rate, discriminator_rate = recipe.learning_rates_at(self.step)
            metrics |= self._apply(metrics, scale, rate)

        with clock("discriminator"):
            if discriminator and data.rollouts and judgement:
                health = step_health(data.rollouts, judgement, old_logprobs_T, health)
                metrics |= {**health, **discriminator.learn(discriminator_rate)}
            metrics |= self.multiplier.observe(self.step, health)

        self.step += 1
        metrics |= self._progress(data, int(metrics.pop("trained_tokens") or 0))
        metrics |= clock.seconds()
        return StepResult(self.step, metrics, data.rollouts, tokens, judgement, old_logprobs_T)

    @property
    def state(self) -> TrainerState:
        """Where the run stands, as reward functions and metrics are told."""
        epoch = self.mixture.demonstration_epoch
        return TrainerState(self.step, self.recipe.config.training.steps, epoch)

    @property
    def is_between_batches(self) -> bool:
        """Whether no batch is half used: only then can a run be saved."""
        return not self.parts

    def _weights_now(self) -> TermWeights:
        """Return the terms' weights for a new batch, before the gate."""
        return self.recipe.weights_at(self.step, self.multiplier.strength)

    def _apply(self, metrics: Metrics, scale: Scale, learning_rate: float) -> Metrics:
        """Update the policy, unless no token has a weight."""
        found: Metrics = {"optimizer/learning_rate": learning_rate, "optimizer/grad_norm": 0.0}
        loss = metrics["objective/loss"]
        if loss is None or not anything_counts(metrics, scale):
            self.optimizer.zero_grad(set_to_none=True)
            return found
        limit = self.recipe.config.optimizer.max_grad_norm
        return found | apply(self.players.policy, self.optimizer, loss, learning_rate, limit)

    def _term_gradients(self) -> TermGradients | None:
        """Return what measures the terms' own gradients if it is due, and ρ is 1, so that they sum to the step's."""
        every = self.recipe.config.training.gradients_every
        updates = self.recipe.config.rollout.updates_per_rollout
        is_due = bool(every) and self.step % every < updates and self.step % updates == 0
        return TermGradients(self.players.policy.trainable_parameters()) if is_due else None

    def _learn_pairs(
        self, metrics: Metrics, data: StepData, weight: float, by_term: TermGradients | None
    ) -> Metrics:
        """Add the gradient of chosen and rejected completions; return the metrics with theirs."""
        config, reference = self.recipe.config, self.players.reference
        assert reference is not None
        found: Metrics = {"objective/pair_weight": weight}
        found |= accumulate_pairs(
            self.players.policy,
            reference,
            data.drawn.pairs,
            weight=weight,
            beta=config.objective.pair_beta,
            micro_batch_tokens=config.training.micro_batch_tokens,
            by_term=by_term,
            ranks=self.players.ranks,
        )
        sums = {
            "objective/loss": weight * (found["objective/pairs"] or 0.0),
            "trained_tokens": found.pop("trained_tokens") or 0.0,
        }
        return metrics | found | {name: (metrics[name] or 0) + more for name, more in sums.items()}

    def _progress(self, data: StepData, num_trained: int) -> Metrics:
        """Return the metrics of rollouts, rewards, weights and counts."""
        self.trained_tokens += num_trained
        metrics: Metrics = {
            "objective/sft_weight": self.weights.sft,
            "objective/grpo_weight": self.weights.grpo,
            "objective/adversarial_weight": self.weights.adversarial,
            "data/demonstration_epoch": self.mixture.demonstration_epoch,
            "data/trained_tokens": self.trained_tokens,
        }
        for batch in (data.rollouts, data.held_out):
            self.sampled_tokens += batch.num_tokens if batch else 0
        metrics["data/sampled_tokens"] = self.sampled_tokens
        if data.rollouts is None:
            return metrics
        pairs = zip(data.rollouts.rollouts, data.rollouts.rewards, strict=True)
        rewards = [reward for rollout, reward in pairs if not rollout.is_expert]
        rollouts = data.rollouts.sampled
        rewards_GxN, has_reward_GxN = reward_table(data.rollouts, torch.device("cpu"))
        metrics |= {
            "reward/mean": _mean([r.total for r in rewards]),
            "reward/std": group_std(rewards_GxN, has_reward_GxN).mean().item(),
            "rollout/completion_tokens_mean": data.rollouts.num_tokens / len(rollouts),
            "rollout/truncated_fraction": _mean([float(r.is_truncated) for r in rollouts]),
            "rollout/zero_std_group_fraction": zero_std_fraction(rewards_GxN, has_reward_GxN),
        }
        for reward in self.players.rewards:
            values = [r.breakdown.get(reward.name) for r in rewards]
            metrics[f"reward/{reward.name}"] = _mean(values)
        for name, value in data.rollouts.reward_metrics.items():
            metrics[f"reward/{name}"] = value
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return everything that moves, apart from the policy's weights."""
        assert self.is_between_batches
        discriminator = self.players.discriminator
        return {
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "discriminator": discriminator.state_dict() if discriminator else None,
            "mixture": self.mixture.state_dict(),
            "held_out": self.held_out.state_dict(),
            "generator": self.players.generator.state_dict(),
            "multiplier": self.multiplier.state_dict(),
            "trained_tokens": self.trained_tokens,
            "sampled_tokens": self.sampled_tokens,
            "torch_rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`; the policy's weights are loaded apart."""
        self.step = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        if self.players.discriminator:
            self.players.discriminator.load_state_dict(state["discriminator"])
        self.mixture.load_state_dict(state["mixture"])
        self.held_out.load_state_dict(state["held_out"])
        self.players.generator.load_state_dict(state["generator"])
        self.multiplier.load_state_dict(state["multiplier"])
        self.trained_tokens = state["trained_tokens"]
        self.sampled_tokens = state["sampled_tokens"]
        torch.set_rng_state(state["torch_rng"])


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that there are; None of none."""
    numbers = [v for v in values if v is not None]
    return sum(numbers) / len(numbers) if numbers else None
