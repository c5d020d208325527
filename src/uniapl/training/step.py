"""The single-stage loop: every step learns from demonstrations, rewards and the discriminator at once."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from uniapl.config.recipe import Recipe, TermWeights
from uniapl.data.mixture import Mixture, Stream
from uniapl.discriminators import Judgement
from uniapl.discriminators.health import reward_table, step_health
from uniapl.errors import TrainingError
from uniapl.models.adamw import adamw
from uniapl.objective.advantages import zero_std_fraction
from uniapl.objective.reductions import group_std
from uniapl.objective.unified import Scale
from uniapl.rewards import TrainerState
from uniapl.training.batch import StepData, draw_batch, flat_logprobs
from uniapl.training.multiplier import Multiplier
from uniapl.training.players import Players
from uniapl.training.sampling import Sampler
from uniapl.training.stopwatch import Stopwatch
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
    """Holds everything that moves and takes one step at a time."""

    def __init__(
        self, recipe: Recipe, players: Players, mixture: Mixture, held_out: Sequence[Demonstration]
    ) -> None:
        config = recipe.config
        self.recipe = recipe
        self.players = players
        self.mixture = mixture
        self.held_out = Stream("held-out demonstrations", held_out, config.seed)
        self.sampler = Sampler(recipe, players, mixture, self.held_out)
        self.lag = 0
        """Updates between the weights that sampled the last batch and its first update."""
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
        """Take one step: draw and sample, judge, weigh, update, let the discriminator learn, move λ."""
        recipe, policy, discriminator = self.recipe, self.players.policy, self.players.discriminator
        clock = Stopwatch()
        with clock("rollout"):
            if not self.parts:
                self.weights = self._weights_now()
                batch = self.sampler.next_batch(self.step, self.weights)
                self.lag = self.step - batch.step
                drawn = draw_batch(
                    recipe,
                    self.players,
                    batch.request,
                    batch.rollouts,
                    self.weights,
                    self.state,
                )
                self.parts.extend(drawn)
            data, weights = self.parts.popleft(), self.weights

        judgement: Judgement | None = None
        health: Mapping[str, float] = {}
        with clock("discriminator"):
            if discriminator and data.rollouts:
                logprobs = partial(flat_logprobs, policy, recipe=recipe)
                judgement = discriminator.judge(data.rollouts, data.drawn, logprobs)
                if data.held_out:
                    health = discriminator.measure(data.held_out, logprobs)

        with clock("update"):
            experts = data.drawn.demonstrations if weights.sft else ()
            tokens = StepTokens.of(data, judgement, recipe, policy.device)
            scale = step_scale(recipe, weights, experts, tokens)
            measures = self._measures_gradients()
            metrics, old_logprobs_T = accumulate(
                policy, experts, tokens, scale, recipe, measures_gradients=measures
            )
            self._check_gap(metrics)
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
        multiplier = self.multiplier
        return self.recipe.weights_at(
            self.step, 0.0 if multiplier.is_closed else multiplier.strength
        )

    def _apply(self, metrics: Metrics, scale: Scale, learning_rate: float) -> Metrics:
        """Update the policy, unless no token has a weight."""
        found: Metrics = {"optimizer/learning_rate": learning_rate, "optimizer/grad_norm": 0.0}
        loss = metrics["objective/loss"]
        if loss is None or not anything_counts(metrics, scale):
            self.optimizer.zero_grad(set_to_none=True)
            return found
        limit = self.recipe.config.optimizer.max_grad_norm
        return found | apply(self.players.policy, self.optimizer, loss, learning_rate, limit)

    def _check_gap(self, metrics: Metrics) -> None:
        """Refuse to learn from rollouts that another model than the policy seems to have sampled.

        Of rollouts that older weights have sampled, the gap says nothing of the engine.
        """
        gap, limit = metrics["policy/sampling_gap"], self.players.max_sampling_gap
        if gap is None or limit is None or self.lag or gap <= limit:
            return
        self.optimizer.zero_grad(set_to_none=True)
        raise TrainingError(
            f"step {self.step + 1}: the log-probs of rollout.servers lie {gap:.3g} nats per token from the policy's "
            f"own, at most {limit:g} is rounding: model, precision or temperature differ, or weights are not taken over"
        )

    def _measures_gradients(self) -> bool:
        """Whether the terms' own gradients are due; only where ρ = 1 do they sum to the step's."""
        every = self.recipe.config.training.gradients_every
        updates = self.recipe.config.rollout.updates_per_rollout
        return bool(every) and self.step % every < updates and self.step % updates == 0

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
        if self.recipe.config.rollout.engine == "vllm":
            metrics["rollout/lag_steps"] = self.lag
        rollouts, rewards = data.rollouts.rollouts, data.rollouts.rewards
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
            **self.sampler.state_dict(),
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
        self.sampler.load_state_dict(state, self.step)
        self.players.generator.load_state_dict(state["generator"])
        self.multiplier.load_state_dict(state["multiplier"])
        self.trained_tokens = state["trained_tokens"]
        self.sampled_tokens = state["sampled_tokens"]
        torch.set_rng_state(state["torch_rng"])


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [v for v in values if v is not None]
    return sum(numbers) / len(numbers) if numbers else None
