"""The policy's part of a step: packed micro-batches, one forward and backward each for all three terms."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from uniapl.config.schema import Config
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import Packed, TokenSequence, completion_offsets, pack
from uniapl.objective.advantages import reward_advantages
from uniapl.objective.policy_gradient import importance_weights, is_clipped, k3
from uniapl.objective.unified import (
    ExpertTokens,
    RolloutTokens,
    StepScale,
    term_losses,
    token_weights,
    unified_objective,
)
from uniapl.training.gradients import TERMS, TermGradients
from uniapl.training.rollout_batch import RolloutBatch, sequence_of
from uniapl.types import Demonstration, TrainingError

SAMPLED_WEIGHTS = 1024
"""So many of each tensor are watched: enough to see whether updates move the weights at all."""


@dataclass(frozen=True, slots=True)
class StepWeights:
    """The weights of the terms as they act in one step."""

    sft: float
    grpo: float
    adversarial: float
    """λ, ramp included."""
    kl: float


@dataclass(slots=True)
class WeightedTokens:
    """Per rollout token of a batch what the surrogate needs, fixed for all passes over it."""

    weights: Tensor
    """w_t."""
    reward_weights: Tensor
    """The reward's part of w_t."""
    is_counted: Tensor
    is_rewarded: Tensor
    reward_advantages: Tensor
    """A_reward of the token's completion."""
    adversarial_advantages: Tensor | None
    """A_adv,t."""


def weigh_tokens(
    batch: RolloutBatch,
    credit: Tensor | None,
    weights: StepWeights,
    config: Config,
    device: torch.device,
) -> WeightedTokens:
    """Turn rewards and the discriminator's credit (flat over rollouts) into w_t."""
    rewards, has_reward = batch.reward_table(device)
    advantages = reward_advantages(rewards, has_reward, config.objective.advantage_scale)
    per_token = batch.per_rollout_token
    is_counted = per_token(batch.is_counted(device))
    is_rewarded = per_token(has_reward) & is_counted
    reward_part = per_token(advantages)
    return WeightedTokens(
        weights=token_weights(
            reward_part, is_rewarded, credit, is_counted, weights.grpo, weights.adversarial
        ),
        reward_weights=token_weights(
            reward_part, is_rewarded, None, is_counted, weights.grpo, weights.adversarial
        ),
        is_counted=is_counted,
        is_rewarded=is_rewarded,
        reward_advantages=reward_part,
        adversarial_advantages=credit,
    )


@dataclass(slots=True)
class _Sums:
    """What the metrics of an update are made of; tensors, so that nothing waits for the device."""

    values: dict[str, Tensor] = field(default_factory=dict)

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            value = value.detach().double()
            self.values[name] = self.values[name] + value if name in self.values else value

    def mean(self, name: str, count: int) -> float | None:
        return self.values[name].item() / count if name in self.values and count else None


@dataclass(slots=True)
class _Pass:
    """What the micro-batches of one update share."""

    batch: RolloutBatch | None
    tokens: WeightedTokens | None
    sampled: Tensor | None
    """log π_sampled, flat over rollouts."""
    scale: StepScale
    is_first: bool
    weigh: Callable[[Collection[int]], WeightedTokens] | None
    gradients: TermGradients | None
    sums: _Sums = field(default_factory=_Sums)


class PolicyUpdate:
    """Accumulates the gradient of the unified objective over a step and applies it."""

    def __init__(
        self, config: Config, policy: LanguageModel, optimizer: torch.optim.Optimizer
    ) -> None:
        self.config = config
        self.policy = policy
        self.optimizer = optimizer

    def __call__(
        self,
        demonstrations: Sequence[Demonstration],
        batch: RolloutBatch | None,
        tokens: WeightedTokens | None,
        weights: StepWeights,
        *,
        is_first_pass: bool,
        measure_gradients: bool = False,
        weigh: Callable[[Collection[int]], WeightedTokens] | None = None,
    ) -> dict[str, float | None]:
        """Take one optimiser step.

        Args:
            demonstrations: The expert's part; ignored if its weight is 0.
            batch: The rollouts; None in a step without.
            tokens: Their weights; with `weigh` those of rollouts that wait for it are not read.
            weights: The terms' weights.
            is_first_pass: Whether no step has learned from `batch` yet: π_old is then the policy itself,
                and its log-probs are kept in the batch for later passes.
            measure_gradients: Also measure the gradient of each term, on a first pass; what is learned
                stays the same, bit for bit.
            weigh: Only on a first pass: weighs the tokens of some rollouts once their log-probs are in the batch. It is
                called for each micro-batch between its forward and its backward pass; None: `tokens` has all weights.

        Returns:
            The metrics of the update.

        Raises:
            TrainingError: The loss or the gradient is not finite; the weights are then unchanged.
        """
        experts = list(demonstrations) if weights.sft else []
        if batch and batch.old_logprobs is None:
            shape = (batch.num_rollout_tokens,)
            batch.old_logprobs = torch.full(shape, torch.nan, device=self.policy.device)
        current = _Pass(
            batch,
            tokens,
            batch.sampling_logprobs(self.policy.device) if batch else None,
            self._scale(experts, tokens, weights),
            is_first_pass,
            weigh,
            self._term_gradients(weights) if measure_gradients else None,
        )
        sequences = [*(batch.rollout_sequences if batch else []), *map(sequence_of, experts)]
        num_packed = 0
        for packed in pack(sequences, self.config.training.micro_batch_tokens):
            num_packed += len(packed.input_ids)
            self._accumulate(packed, current)
        # every term's weight may be 0 in a step
        norm, moved = self._apply(current.sums) if sequences else (0.0, None)
        return self._metrics(current, norm) | {
            **(current.gradients.metrics() if current.gradients else {}),
            "optimizer/moved_fraction": moved,
            "trained_tokens": num_packed,
        }

    def _scale(
        self, experts: Sequence[Demonstration], tokens: WeightedTokens | None, weights: StepWeights
    ) -> StepScale:
        return StepScale(
            sft_weight=weights.sft,
            kl_coef=weights.kl,
            clip_low=self.config.objective.clip_low,
            clip_high=self.config.objective.clip_high,
            num_sft_tokens=sum(len(d.token_ids) for d in experts),
            num_rollout_tokens=int(tokens.is_counted.sum()) if tokens else 0,
        )

    def _term_gradients(self, weights: StepWeights) -> TermGradients:
        acting = [term for term in TERMS if getattr(weights, term)]
        return TermGradients(self.policy.trainable_parameters(), acting)

    def _accumulate(self, packed: Packed, current: _Pass) -> None:
        batch, scale = current.batch, current.scale
        num_rollouts = len(batch.rollouts) if batch else 0
        members = [i for i in packed.sequences.tolist() if i < num_rollouts]
        packed = packed.to(self.policy.device)
        is_rollout = packed.token_index < (batch.num_rollout_tokens if batch else 0)
        temperature = torch.where(is_rollout, self.config.rollout.temperature, 1.0)
        logprobs = self.policy.logprobs(packed, temperature)
        expert = ExpertTokens(logprobs[~is_rollout]) if not is_rollout.all() else None
        rollouts = None
        if batch and members:
            assert batch.old_logprobs is not None
            assert current.sampled is not None
            places = packed.token_index[is_rollout]
            own = logprobs[is_rollout]
            if current.is_first:
                # the value the ratio is taken against must be this very number, or ρ is not 1
                batch.old_logprobs[places] = own.detach()
                if current.weigh is not None:
                    current.tokens = current.weigh(members)
            tokens = current.tokens
            assert tokens is not None
            old, sampled = batch.old_logprobs[places], current.sampled[places]
            weights, reward_weights = tokens.weights[places], tokens.reward_weights[places]
            if cap := self.config.rollout.importance_cap:
                importance = importance_weights(old, sampled, cap)
                weights, reward_weights = weights * importance, reward_weights * importance
            rollouts = RolloutTokens(
                logprobs=own,
                old_logprobs=old,
                weights=weights,
                is_counted=tokens.is_counted[places],
                ref_logprobs=None if batch.ref_logprobs is None else batch.ref_logprobs[places],
                reward_weights=reward_weights,
            )
            self._measure(rollouts, tokens, places, sampled, scale, current.sums)
        loss = unified_objective(expert, rollouts, scale)
        if current.gradients is not None:
            current.gradients.add(term_losses(expert, rollouts, scale))
        loss.backward()
        current.sums.add(loss=loss)
        if expert is not None:
            current.sums.add(sft=-expert.logprobs.sum())

    def _measure(
        self,
        rollouts: RolloutTokens,
        tokens: WeightedTokens,
        places: Tensor,
        sampled: Tensor,
        scale: StepScale,
        sums: _Sums,
    ) -> None:
        with torch.no_grad():
            is_counted = rollouts.is_counted
            ratio = (rollouts.logprobs - rollouts.old_logprobs).exp()
            sums.add(
                grpo=-(ratio * tokens.reward_advantages[places])[tokens.is_rewarded[places]].sum(),
                ratio=ratio[is_counted].sum(),
                entropy=-rollouts.old_logprobs[is_counted].sum(),
                gap=(rollouts.old_logprobs - sampled).abs()[is_counted].sum(),
                clipped=is_clipped(
                    rollouts.logprobs,
                    rollouts.old_logprobs,
                    rollouts.weights,
                    scale.clip_low,
                    scale.clip_high,
                ).sum(),
                weighted=(rollouts.weights != 0).sum(),
            )
            if tokens.adversarial_advantages is not None:
                credit = tokens.adversarial_advantages[places]
                sums.add(adversarial=-(ratio * credit)[is_counted].sum())
            if rollouts.ref_logprobs is not None:
                sums.add(kl=k3(rollouts.logprobs, rollouts.ref_logprobs)[is_counted].sum())

    def _apply(self, sums: _Sums) -> tuple[float, float]:
        """Update the weights; returns the gradient's norm and the share of weights that changed."""
        loss = sums.values["loss"].item()
        norm = nn.utils.clip_grad_norm_(
            self.policy.trainable_parameters(), self.config.optimizer.max_grad_norm
        ).item()
        for name, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                self.optimizer.zero_grad(set_to_none=True)
                raise TrainingError(
                    f"the policy's {name} is {value}; the last checkpoint is kept; lower "
                    "optimizer.learning_rate and start again in another output_dir"
                )
        before = self._some_weights()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm, (self._some_weights() != before).double().mean().item()

    def _some_weights(self) -> Tensor:
        """Return the first weights of each tensor that learns, in one row."""
        learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        return torch.cat([p.detach().flatten()[:SAMPLED_WEIGHTS] for p in learning])

    def _metrics(self, current: _Pass, norm: float) -> dict[str, float | None]:
        sums, scale, tokens = current.sums, current.scale, current.tokens
        num_counted = scale.num_rollout_tokens
        num_rewarded = int(tokens.is_rewarded.sum()) if tokens else 0
        num_weighted = int(sums.values["weighted"]) if "weighted" in sums.values else 0
        return {
            "objective/loss": sums.mean("loss", 1),
            "objective/sft": sums.mean("sft", scale.num_sft_tokens),
            "objective/grpo": sums.mean("grpo", num_rewarded),
            "objective/adversarial": sums.mean("adversarial", num_counted),
            "policy/entropy": sums.mean("entropy", num_counted),
            "policy/kl_reference": sums.mean("kl", num_counted),
            "policy/ratio_mean": sums.mean("ratio", num_counted),
            "policy/clip_fraction": sums.mean("clipped", num_weighted),
            "policy/sampling_gap": sums.mean("gap", num_counted),
            "optimizer/grad_norm": norm,
        }


def sampled_logprobs_are_exact(config: Config) -> bool:
    """Whether the generator's log-probs are a forward's but for rounding: in bfloat16 rounding is too much."""
    return config.model.dtype == "float32"


def computes_old_logprobs(config: Config) -> bool:
    """Whether the likelihood form takes log π_old of rollouts from forwards, not from the generator."""
    source = config.discriminator.old_logprobs
    return source == "computed" or (source == "auto" and not sampled_logprobs_are_exact(config))


def scores_while_updating(config: Config) -> bool:
    """Whether rollouts that teach the discriminator nothing are scored between an update's forward and backward pass.

    That forward then gives their log π_old, which would take one more before. A credit per completion is
    centred in its group, whose rollouts may be in several micro-batches.
    """
    likelihood_form = config.discriminator.form == "likelihood"
    return (
        likelihood_form and config.discriminator.credit == "token" and computes_old_logprobs(config)
    )


def old_logprobs(
    policy: LanguageModel,
    batch: RolloutBatch,
    config: Config,
    rollouts: Sequence[int] | None = None,
) -> Tensor:
    """Log-probs of a batch's rollouts and experts under the weights that sampled, flat.

    Rollouts keep what the generator computed where that is as exact as a forward. NaN on experts that are in no
    pair: only their own likelihood under p_φ is ever asked for.

    Args:
        rollouts: Those to compute if any are, the others being NaN; None: all.
    """
    flat = torch.full((batch.offsets()[-1],), torch.nan, device=policy.device)
    first = len(batch.rollouts)
    members = list(range(first, first + batch.num_pairs))
    if computes_old_logprobs(config):
        # together, so that an expert shares its prompt with the rollouts
        members = [*(range(first) if rollouts is None else rollouts), *members]
    else:
        flat[: batch.num_rollout_tokens] = batch.sampling_logprobs(policy.device)
    sequences = batch.sequences
    flat[batch.token_places(members, policy.device)] = no_gradient_logprobs(
        policy,
        [sequences[i] for i in members],
        config.training.micro_batch_tokens,
        config.rollout.temperature,
    )
    return flat


def no_gradient_logprobs(
    model: LanguageModel, sequences: Sequence[TokenSequence], max_tokens: int, temperature: float
) -> Tensor:
    """Log-probs of all completion tokens, flat and without gradient, `max_tokens` per forward."""
    packed = [p.to(model.device) for p in pack(sequences, max_tokens)]
    return model.flat_logprobs(packed, completion_offsets(sequences)[-1], temperature)
