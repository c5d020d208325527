"""The single-stage loop: every step learns from demonstrations, rewards and the discriminator at once."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from uniapl.config.recipe import Recipe, TermWeights
from uniapl.data.mixture import Mixture, Stream
from uniapl.discriminators import Judgement
from uniapl.discriminators.health import reward_table
from uniapl.objective.advantages import zero_std_fraction
from uniapl.objective.constraint import constraint_state, next_weight, smooth
from uniapl.objective.reductions import group_std
from uniapl.training.batch import StepData, draw_batch, flat_logprobs
from uniapl.training.players import Players
from uniapl.training.stopwatch import Stopwatch
from uniapl.training.update import Metrics, StepTokens, accumulate, apply, step_scale
from uniapl.types import Demonstration, MixedBatch, RolloutBatch


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step did."""

    metrics: Metrics
    rollouts: RolloutBatch | None
    tokens: StepTokens | None
    judgement: Judgement | None


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
        self.optimizer = torch.optim.AdamW(
            players.policy.trainable_parameters(),
            lr=config.optimizer.learning_rate,
            betas=(config.optimizer.beta1, config.optimizer.beta2),
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )
        self.step = 0
        """Optimiser updates done."""
        self.parts: deque[StepData] = deque()
        """What is left of the last batch: a part for each of the coming steps."""
        self.constraint_accuracy: float | None = None
        self.constraint_weight: float | None = None
        """λ before the ramp, where the controller moves it."""
        if recipe.moves_lambda:
            weight = config.objective.adversarial_weight
            assert isinstance(weight, float | int)
            self.constraint_weight = float(weight)
        self.weights = self._weights_now()
        """The terms' weights while the last batch serves."""
        self.trained_tokens = 0
        self.sampled_tokens = 0

    def train_step(self) -> StepResult:
        """Take one step: draw and sample, judge, weigh, update, let the discriminator learn."""
        recipe, players, clock = self.recipe, self.players, Stopwatch()
        with clock("rollout"):
            if not self.parts:
                self.weights = self._weights_now()
                self.parts.extend(
                    draw_batch(recipe, players, self.mixture, self.held_out, self.weights)
                )
            data, weights = self.parts.popleft(), self.weights

        with clock("discriminator"):
            judgement = self._judge(data.rollouts, data.drawn)
            metrics = self._move_lambda(data.held_out)

        with clock("update"):
            experts = data.drawn.demonstrations if weights.sft else ()
            tokens = StepTokens.of(data, judgement, recipe, players.policy.device)
            scale = step_scale(recipe, weights, experts, tokens)
            metrics |= accumulate(
                players.policy,
                experts,
                tokens,
                scale,
                recipe,
                measures_gradients=self._measures_gradients(),
            )
            rate, discriminator_rate = recipe.learning_rates_at(self.step)
            limit = recipe.config.optimizer.max_grad_norm
            loss = metrics["objective/loss"]
            metrics |= apply(players.policy, self.optimizer, loss, rate, limit)

        with clock("discriminator"):
            if players.discriminator and judgement:
                metrics |= judgement.health | players.discriminator.learn(discriminator_rate)

        self.step += 1
        metrics |= self._progress(data, int(metrics.pop("trained_tokens") or 0))
        return StepResult(metrics | clock.seconds(), data.rollouts, tokens, judgement)

    @property
    def is_between_batches(self) -> bool:
        """Whether no batch is half used: only then can a run be saved."""
        return not self.parts

    def _weights_now(self) -> TermWeights:
        return self.recipe.weights_at(self.step, self.constraint_weight)

    def _judge(self, batch: RolloutBatch | None, drawn: MixedBatch | None) -> Judgement | None:
        discriminator = self.players.discriminator
        if batch is None or discriminator is None:
            return None
        policy_logprobs = partial(flat_logprobs, self.players.policy, recipe=self.recipe)
        return discriminator.judge(batch, drawn, policy_logprobs)

    def _move_lambda(self, held_out: RolloutBatch | None) -> Metrics:
        """Measure the distance to the expert on held-out demonstrations and move λ."""
        judgement = self._judge(held_out, None)
        if judgement is None or self.constraint_weight is None:
            return {}
        config = self.recipe.config.constraint
        assert config.target is not None
        bounds = (config.minimum, config.maximum)
        accuracy = judgement.health.get("discriminator/accuracy")
        # before the discriminator has learned anything its accuracy is no distance
        if accuracy is not None and self.step >= self.recipe.config.discriminator.warmup_steps:
            self.constraint_accuracy = smooth(self.constraint_accuracy, accuracy, config.smoothing)
            self.constraint_weight = next_weight(
                self.constraint_weight, self.constraint_accuracy, config.target, config.rate, bounds
            )
        return {
            "constraint/accuracy": self.constraint_accuracy,
            "constraint/weight": self.constraint_weight,
            "constraint/state": constraint_state(self.constraint_weight, bounds),
        }

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
            "constraint_accuracy": self.constraint_accuracy,
            "constraint_weight": self.constraint_weight,
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
        self.constraint_accuracy = state["constraint_accuracy"]
        self.constraint_weight = state["constraint_weight"]
        self.trained_tokens = state["trained_tokens"]
        self.sampled_tokens = state["sampled_tokens"]
        torch.set_rng_state(state["torch_rng"])


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [v for v in values if v is not None]
    return sum(numbers) / len(numbers) if numbers else None
