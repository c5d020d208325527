"""The single-stage loop: every step learns from demonstrations, rewards and the discriminator at once."""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from uniapl.config.schema import Config
from uniapl.data.mixture import Mixture, Stream
from uniapl.models.language_model import LanguageModel
from uniapl.objective.advantages import zero_std_fraction
from uniapl.objective.constraint import constraint_state, next_weight, ramp, smooth
from uniapl.objective.reductions import group_std
from uniapl.rewards import NamedReward, score
from uniapl.training.discriminator import Discriminator, Verdicts, num_experts_shown
from uniapl.training.methods import METHODS
from uniapl.training.rollout_batch import RankedGroup, RolloutBatch, ranked
from uniapl.training.rollout_log import logged_rows
from uniapl.training.schedules import learning_rate_factor, weight_at
from uniapl.training.update import (
    PolicyUpdate,
    StepWeights,
    WeightedTokens,
    no_gradient_logprobs,
    old_logprobs,
    scores_while_updating,
    weigh_tokens,
)
from uniapl.types import Demonstration, Generator, MixedBatch, Prompt

Metrics = dict[str, float | None]


@dataclass(slots=True)
class Players:
    """Who takes part in a run; the discriminator and the reference only where a term needs them."""

    policy: LanguageModel
    generator: Generator
    discriminator: Discriminator | None
    reference: LanguageModel | None
    rewards: Sequence[NamedReward]
    columns: Sequence[str] = ()
    """Columns of the data that reward functions receive; a row without one passes None."""


class Trainer:
    """Holds everything that moves and takes one step at a time."""

    def __init__(
        self,
        config: Config,
        players: Players,
        mixture: Mixture,
        held_out: Sequence[Demonstration],
    ) -> None:
        self.config = config
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
        self.update = PolicyUpdate(config, players.policy, self.optimizer)
        self.step = 0
        """Optimiser updates done."""
        self.constraint_accuracy: float | None = None
        self.constraint_weight: float | None = None
        """λ before the ramp, where the controller moves it."""
        if self.has_controller:
            weight = config.objective.adversarial_weight
            assert isinstance(weight, float | int)
            self.constraint_weight = float(weight)
        self.trained_tokens = 0
        self.sampled_tokens = 0
        self.batch: RolloutBatch | None = None
        self.weights = self.weights_now()
        self.verdicts: Verdicts | None = None
        self.tokens: WeightedTokens | None = None

    @property
    def has_controller(self) -> bool:
        """Whether λ moves."""
        return self.config.constraint.target is not None and self.players.discriminator is not None

    @property
    def is_between_batches(self) -> bool:
        """Whether no rollout batch is half used: only then can a run be saved."""
        return self.step % self.config.rollout.updates_per_rollout == 0

    def train_step(self) -> Metrics:
        """Take one step and return its metrics."""
        clock = Stopwatch()
        is_first_pass = self.is_between_batches
        scores_later = self.players.discriminator is not None and scores_while_updating(self.config)
        if is_first_pass:
            self.weights = self.weights_now()  # w_t holds them, so all passes do
        weights = self.weights
        data = self._next_data(weights, is_first_pass)
        metrics: Metrics = {}

        if is_first_pass:
            with clock("rollout"):
                self.batch, held_out = self._roll_out(data, weights)
        with clock("discriminator"):
            pairs = [ranked(pair) for pair in data.pairs]
            # before it learns from them
            verdicts = self._judge(
                self.batch,
                learn=True,
                pairs=pairs,
                scores_others=is_first_pass and not scores_later,
            )
            if is_first_pass:
                metrics |= self._move_constraint(held_out)
        if is_first_pass:
            self.verdicts = verdicts
            self.tokens = self._weigh(weights)

        with clock("update"):
            metrics |= self._set_learning_rates()
            metrics |= self.update(
                data.demonstrations,
                self.batch,
                self.tokens,
                weights,
                is_first_pass=is_first_pass,
                measure_gradients=is_first_pass and self._measures_gradients(),
                weigh=partial(self._score_and_weigh, clock)
                if is_first_pass and scores_later
                else None,
            )
        with clock("discriminator"):
            metrics |= self._let_discriminator_learn()

        self.step += 1
        self.trained_tokens += int(metrics.pop("trained_tokens") or 0)
        if is_first_pass and self.batch:
            metrics |= self._rollout_metrics(self.batch)
        return metrics | {
            **(verdicts.health if verdicts else {}),
            "objective/sft_weight": weights.sft,
            "objective/grpo_weight": weights.grpo,
            "objective/adversarial_weight": weights.adversarial,
            "data/demonstration_epoch": self.mixture.demonstration_epoch,
            "data/trained_tokens": self.trained_tokens,
            "data/sampled_tokens": self.sampled_tokens,
            **clock.seconds(),
        }

    def weights_now(self) -> StepWeights:
        """Return the terms' weights for a batch that begins with the coming step."""
        objective, steps = self.config.objective, self.config.training.steps
        strength = 0.0
        if self.players.discriminator:
            base = self.constraint_weight
            if base is None:
                base = weight_at(objective.adversarial_weight, self.step, steps)
            warm = self.config.discriminator
            strength = base * ramp(self.step, warm.warmup_steps, warm.ramp_steps)
        return StepWeights(
            sft=weight_at(objective.sft_weight, self.step, steps),
            grpo=weight_at(objective.grpo_weight, self.step, steps),
            adversarial=strength,
            kl=weight_at(objective.kl_coef, self.step, steps),
        )

    def _next_data(self, weights: StepWeights, is_first_pass: bool) -> MixedBatch:
        """Draw what the step needs: prompts only where it rolls out."""
        data, on = self.config.data, METHODS[self.config.method].rollouts_on
        num_prompts = 0
        if is_first_pass and self._rolls_out(weights) and on in ("preference", "both"):
            from_demonstrations = data.demonstration_prompts_per_step if on == "both" else 0
            num_prompts = data.prompts_per_step - from_demonstrations
        needs_experts = weights.sft or self.players.discriminator
        return self.mixture.next_batch(
            data.demonstrations_per_step if needs_experts else 0,
            num_prompts,
            data.pairs_per_step if data.pairs is not None else 0,
        )

    def _rolls_out(self, weights: StepWeights) -> bool:
        return weights.grpo > 0 or self.players.discriminator is not None

    def _roll_out(
        self, data: MixedBatch, weights: StepWeights
    ) -> tuple[RolloutBatch | None, RolloutBatch | None]:
        """Sample and reward the step's prompts; the second batch measures the constraint."""
        if not self._rolls_out(weights):
            return None, None
        config = self.config
        on = METHODS[config.method].rollouts_on
        num_pairs = {
            "both": config.data.demonstration_prompts_per_step,
            "demonstration": config.data.prompts_per_step,
        }.get(on, 0)
        held_out = self.held_out.take(
            config.constraint.prompts_per_step if self.has_controller else 0
        )
        paired = [d.prompt for d in data.demonstrations[:num_pairs]]
        own: list[Prompt] = [*paired, *data.prompts]
        group_size = config.rollout.group_size
        with self.players.policy.autocast():
            rollouts = self.players.generator.sample(
                [*own, *(d.prompt for d in held_out)], group_size
            )
        self.sampled_tokens += sum(len(r.token_ids) for r in rollouts)
        split = len(own) * group_size
        experts: list[Demonstration] = []
        if discriminator := self.players.discriminator:
            shown = num_experts_shown(discriminator.config, num_pairs)
            experts = list(data.demonstrations[:shown])
        batch = RolloutBatch(
            rollouts[:split], group_size, experts, num_pairs, config.rollout.mask_truncated
        )
        batch.rewards = score(batch.rollouts, self.players.rewards, self.players.columns)
        if self.players.reference and weights.kl:
            batch.ref_logprobs = no_gradient_logprobs(
                self.players.reference,
                batch.rollout_sequences,
                config.training.micro_batch_tokens,
                config.rollout.temperature,
            )
        measured = None
        if held_out:
            measured = RolloutBatch(
                rollouts[split:],
                group_size,
                list(held_out),
                len(held_out),
                config.rollout.mask_truncated,
            )
        return batch, measured

    def _judge(
        self,
        batch: RolloutBatch | None,
        *,
        learn: bool,
        pairs: Sequence[RankedGroup] = (),
        scores_others: bool = True,
    ) -> Verdicts | None:
        """Score rollouts; the likelihood form first needs log π_old under the weights that sampled."""
        discriminator = self.players.discriminator
        if batch is None or discriminator is None:
            return None
        if discriminator.config.form == "likelihood" and batch.old_logprobs is None:
            needed = None if scores_others else discriminator.learned_rollouts(batch)
            batch.old_logprobs = old_logprobs(self.players.policy, batch, self.config, needed)
        return discriminator.judge(batch, learn=learn, pairs=pairs, scores_others=scores_others)

    def _weigh(self, weights: StepWeights) -> WeightedTokens | None:
        """Turn rewards and verdicts into the token weights of all passes over the batch."""
        if self.batch is None:
            return None
        credit = None
        if self.players.discriminator and self.verdicts:
            credit = self.players.discriminator.credit(self.batch, self.verdicts)
        return weigh_tokens(self.batch, credit, weights, self.config, self.players.policy.device)

    def _score_and_weigh(self, clock: "Stopwatch", rollouts: Collection[int]) -> WeightedTokens:
        """Let the discriminator score rollouts that it left, now that their log π_old is known."""
        assert self.players.discriminator is not None
        assert self.verdicts is not None
        if self.verdicts.unscored.intersection(rollouts):
            with clock("discriminator"):
                self.players.discriminator.score(self.verdicts, rollouts)
                self.tokens = self._weigh(self.weights)
        assert self.tokens is not None
        return self.tokens

    def _measures_gradients(self) -> bool:
        """Whether the gradients of the terms are due: at the first step whose number is reached or passed."""
        every = self.config.training.gradients_every
        return bool(every) and self.step % every < self.config.rollout.updates_per_rollout

    def _let_discriminator_learn(self) -> Metrics:
        if self.batch is None or self.players.discriminator is None:
            return {}
        return {"optimizer/discriminator_grad_norm": self.players.discriminator.learn()}

    def _move_constraint(self, held_out: RolloutBatch | None) -> Metrics:
        """Measure the distance to the expert on held-out demonstrations and move λ."""
        verdicts = self._judge(held_out, learn=False)
        if verdicts is None:
            return {}
        config = self.config.constraint
        assert config.target is not None
        assert self.constraint_weight is not None
        bounds = (config.minimum, config.maximum)
        accuracy = verdicts.health.get("discriminator/accuracy")
        # before the discriminator has learned anything its accuracy is no distance
        if accuracy is not None and self.step >= self.config.discriminator.warmup_steps:
            self.constraint_accuracy = smooth(self.constraint_accuracy, accuracy, config.smoothing)
            self.constraint_weight = next_weight(
                self.constraint_weight, self.constraint_accuracy, config.target, config.rate, bounds
            )
        return {
            "constraint/accuracy": self.constraint_accuracy,
            "constraint/weight": self.constraint_weight,
            "constraint/state": constraint_state(self.constraint_weight, bounds),
        }

    def _set_learning_rates(self) -> Metrics:
        factor = learning_rate_factor(self.config.optimizer, self.step, self.config.training.steps)
        rate = self.config.optimizer.learning_rate * factor
        optimizers = [(self.optimizer, rate)]
        if discriminator := self.players.discriminator:
            own = discriminator.config.learning_rate * factor
            optimizers.append((discriminator.optimizer, own))
        for optimizer, value in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = value
        return {"optimizer/learning_rate": rate}

    def _rollout_metrics(self, batch: RolloutBatch) -> Metrics:
        rewards, has_reward = batch.reward_table(torch.device("cpu"))
        lengths = [len(r.token_ids) for r in batch.rollouts]
        metrics: Metrics = {
            "reward/mean": _mean([r.total for r in batch.rewards]),
            "reward/std": group_std(rewards, has_reward).mean().item(),
            "rollout/completion_tokens_mean": sum(lengths) / len(lengths),
            "rollout/truncated_fraction": _mean([float(r.is_truncated) for r in batch.rollouts]),
            "rollout/zero_std_group_fraction": zero_std_fraction(rewards, has_reward),
        }
        for reward in self.players.rewards:
            metrics[f"reward/{reward.name}"] = _mean(
                [r.breakdown.get(reward.name) for r in batch.rewards]
            )
        return metrics

    def logged_rollouts(self, count: int) -> list[dict[str, Any]]:
        """Return the batch's first rollouts of each group in turn, as rows for people to read."""
        if self.batch is None:
            return []
        return logged_rows(self.batch, self.tokens, self.verdicts, count)

    def state_dict(self) -> dict[str, Any]:
        """Everything that moves, apart from the policy's weights."""
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


class Stopwatch:
    """Adds up the seconds of each stage of a step."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()
        self._stage: str | None = None
        self._stages: Metrics = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count what runs inside towards a stage; one that it interrupts waits meanwhile."""
        self._count()
        interrupted, self._stage = self._stage, stage
        yield
        self._count()
        self._stage = interrupted

    def _count(self) -> None:
        now = time.perf_counter()
        if self._stage:
            key = f"time/{self._stage}_seconds"
            self._stages[key] = (self._stages.get(key) or 0.0) + now - self._last
        self._last = now

    def seconds(self) -> Metrics:
        """Return the stages' times and that since the start."""
        return {**self._stages, "time/step_seconds": time.perf_counter() - self._started}


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [v for v in values if v is not None]
    return sum(numbers) / len(numbers) if numbers else None
