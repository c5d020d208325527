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
from uniapl.distributed.sharding import Learning
from uniapl.errors import InputError, TrainingError
from uniapl.models.adamw import adamw
from uniapl.objective.advantages import zero_std_fraction
from uniapl.objective.reductions import mean_group_std
from uniapl.objective.unified import Scale
from uniapl.rewards import TrainerState
from uniapl.training.batch import StepData, draw_batch, flat_logprobs, shaped
from uniapl.training.multiplier import Multiplier
from uniapl.training.pairs import accumulate_pairs
from uniapl.training.players import Players
from uniapl.training.sampling import Sampler
from uniapl.training.stopwatch import Stopwatch
from uniapl.training.term_gradients import TermGradients
from uniapl.training.update import (
    Accumulated,
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
        self.sampler = Sampler(recipe, players, mixture, self.held_out)
        self.lag = 0
        """Updates between the weights that sampled the last batch and its first update."""
        self.optimizer = adamw(players.policy.trainable_parameters(), config.optimizer.weight_decay)
        self.step = 0
        """Optimiser updates done."""
        self.parts: deque[StepData] = deque()
        """What is left of the last batch: a part for each of the coming steps."""
        self.multiplier = Multiplier(recipe)
        self.weights = recipe.weights_at(0)
        """The terms' weights while the last batch serves."""
        self.trained_tokens = 0
        self.sampled_tokens = 0

    def train_step(self) -> StepResult:
        """Take one step: draw and sample, judge, weigh, update, let the discriminator learn, move λ.

        Raises:
            TrainingError: A loss or gradient is not finite, or a reward function fails.
        """
        recipe, players, clock = self.recipe, self.players, Stopwatch()
        with clock("rollout"):
            data, weights = self._next_part()

        with clock("discriminator"):
            judgement, held_out = self._judge(data)
            if judgement and recipe.shapes_reward:
                data = shaped(data, judgement, weights.adversarial)
                weights = replace(weights, adversarial=0.0)

        with clock("update"):
            experts = data.drawn.demonstrations if weights.sft else ()
            tokens = StepTokens.of(data, judgement, recipe, players.policy.device)
            scale = step_scale(recipe, weights, experts, tokens)
            by_term = self._term_gradients()
            update = accumulate(
                players.policy, experts, tokens, scale, recipe, by_term=by_term, ranks=players.ranks
            )
            self._check_gap(update.metrics)
            if weights.pairs:
                update = self._learn_pairs(update, data, weights.pairs, by_term)
            metrics = dict(update.metrics)
            metrics |= self._sum_over_ranks(by_term)
            rate, discriminator_rate = recipe.learning_rates_at(self.step)
            metrics |= self._apply(metrics, scale, rate)

        with clock("discriminator"):
            health: Mapping[str, float] = {}
            if judgement and data.rollouts and players.discriminator:
                health = step_health(data.rollouts, judgement, update.old_logprobs_T, held_out)
                metrics |= {**health, **players.discriminator.learn(discriminator_rate)}
            metrics |= self.multiplier.observe(self.step, health)

        self.step += 1
        metrics |= self._progress(data, update.num_tokens)
        metrics |= clock.seconds()
        old_logprobs_T = update.old_logprobs_T
        return StepResult(self.step, metrics, data.rollouts, tokens, judgement, old_logprobs_T)

    def _next_part(self) -> tuple[StepData, TermWeights]:
        """Return what this step learns from, of a new batch if the last one is used up, and the terms' weights."""
        if not self.parts:
            weights = self.recipe.weights_at(self.step, self.multiplier.strength)
            batch = self.sampler.next_batch(self.step, weights)
            self.lag = self.step - batch.step
            drawn = draw_batch(
                self.recipe, self.players, batch.request, batch.rollouts, weights, self.state
            )
            self.parts.extend(drawn)
            # a closed gate stops the term, not the rollouts: they tell when it may open again
            is_closed = self.multiplier.is_closed
            self.weights = replace(weights, adversarial=0.0) if is_closed else weights
        return self.parts.popleft(), self.weights

    def _judge(self, data: StepData) -> tuple[Judgement | None, Mapping[str, float]]:
        """Return what the discriminator says of the rollouts, and what held-out demonstrations say of it."""
        players, discriminator = self.players, self.players.discriminator
        if discriminator is None or data.rollouts is None:
            return None, {}
        logprobs = partial(flat_logprobs, players.policy, recipe=self.recipe, ranks=players.ranks)
        judgement = discriminator.judge(data.rollouts, data.drawn, logprobs)
        return judgement, discriminator.measure(data.held_out, logprobs) if data.held_out else {}

    def _sum_over_ranks(self, by_term: TermGradients | None) -> Metrics:
        """Make the gradient of this rank that of all of them; return the metrics of the terms' own gradients."""
        ranks, policy = self.players.ranks, self.players.policy
        ranks.sum_gradients(policy.trainable_parameters(), "the policy's gradients")
        if by_term is None:
            return {}
        by_term.sum_over(ranks)
        return by_term.metrics()

    @property
    def state(self) -> TrainerState:
        """Where the run stands, as reward functions and metrics are told."""
        epoch = self.mixture.demonstration_epoch
        return TrainerState(self.step, self.recipe.config.training.steps, epoch)

    @property
    def is_sharded(self) -> bool:
        """Whether the weights are shared out over the ranks."""
        return self.players.ranks.in_lockstep

    @property
    def is_between_batches(self) -> bool:
        """Whether no batch is half used: only then can a run be saved."""
        return not self.parts

    def _apply(self, metrics: Metrics, scale: Scale, learning_rate: float) -> Metrics:
        """Update the policy, unless no token has a weight."""
        found: Metrics = {"optimizer/learning_rate": learning_rate, "optimizer/grad_norm": 0.0}
        loss = metrics["objective/loss"]
        if loss is None or not anything_counts(metrics, scale):
            self.optimizer.zero_grad(set_to_none=True)
            return found
        limit = self.recipe.config.optimizer.max_grad_norm
        policy, ranks = self.players.policy, self.players.ranks
        return found | apply(policy, self.optimizer, loss, learning_rate, limit, ranks)

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

    def _term_gradients(self) -> TermGradients | None:
        """Return what measures the terms' own gradients if it is due, and ρ is 1, so that they sum to the step's."""
        every = self.recipe.config.training.gradients_every
        updates = self.recipe.config.rollout.updates_per_rollout
        is_due = bool(every) and self.step % every < updates and self.step % updates == 0
        return TermGradients(self.players.policy.trainable_parameters()) if is_due else None

    def _learn_pairs(
        self, update: Accumulated, data: StepData, weight: float, by_term: TermGradients | None
    ) -> Accumulated:
        """Add the gradient of chosen and rejected completions; return what was measured with theirs."""
        config, reference = self.recipe.config, self.players.reference
        assert reference is not None
        found, num_tokens = accumulate_pairs(
            self.players.policy,
            reference,
            data.drawn.pairs,
            weight=weight,
            beta=config.objective.pair_beta,
            micro_batch_tokens=config.training.micro_batch_tokens,
            by_term=by_term,
            ranks=self.players.ranks,
        )
        loss = (update.metrics["objective/loss"] or 0.0) + weight * found["objective/pairs"]
        more = {**found, "objective/pair_weight": weight, "objective/loss": loss}
        num_tokens += update.num_tokens
        return replace(update, metrics={**update.metrics, **more}, num_tokens=num_tokens)

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
        pairs = zip(data.rollouts.rollouts, data.rollouts.rewards, strict=True)
        rewards = [reward for rollout, reward in pairs if not rollout.is_expert]
        rollouts = data.rollouts.sampled
        rewards_GxN, has_reward_GxN = reward_table(data.rollouts, torch.device("cpu"))
        metrics |= {
            "reward/mean": _mean([r.total for r in rewards]),
            "reward/std": mean_group_std(rewards_GxN, has_reward_GxN),
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

    def learning(self) -> dict[str, Learning]:
        """Return the models that learn with their optimisers, as `save_shards` takes them."""
        found: dict[str, Learning] = {"policy": (self.players.policy, self.optimizer)}
        if learner := getattr(self.players.discriminator, "learner", None):
            found["discriminator"] = (learner.model, learner.optimizer)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return everything that moves, apart from the policy's weights and from what `save_shards` writes."""
        assert self.is_between_batches
        discriminator = self.players.discriminator
        return {
            "step": self.step,
            "optimizer": None if self.is_sharded else self.optimizer.state_dict(),
            "discriminator": discriminator.state_dict() if discriminator else None,
            **self.sampler.state_dict(),
            "generator": self.players.generator.state_dict(),
            "multiplier": self.multiplier.state_dict(),
            "trained_tokens": self.trained_tokens,
            "sampled_tokens": self.sampled_tokens,
            "torch_rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`; the policy's weights are loaded apart.

        Raises:
            InputError: More steps shall follow, and the optimiser's numbers are gone; or the state is another run's.
        """
        self.step = state["step"]
        own = state["optimizer"]
        if own is not None:
            self.optimizer.load_state_dict(own)
        elif not self.is_sharded and self.step < self.recipe.config.training.steps:
            raise InputError(
                "training.resume: this run has finished and dropped its optimiser's numbers "
                "(training.keep_optimizer is false), so that no steps can follow; a new run with model.path=RUN goes "
                "on from its policy"
            )
        if self.players.discriminator:
            self.players.discriminator.load_state_dict(state["discriminator"])
        self.sampler.load_state_dict(state, self.step)
        self.players.generator.load_state_dict(state["generator"])
        self.multiplier.load_state_dict(state["multiplier"])
        self.trained_tokens = state["trained_tokens"]
        self.sampled_tokens = state["sampled_tokens"]
        torch.set_rng_state(state["torch_rng"])


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that there are; None of none."""
    numbers = [v for v in values if v is not None]
    return sum(numbers) / len(numbers) if numbers else None
