"""The policy's update: packed micro-batches, one forward and backward each for all terms, then one optimiser step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from uniapl.config.recipe import Recipe, TermWeights
from uniapl.discriminators import Judgement
from uniapl.discriminators.health import reward_table
from uniapl.distributed import ALONE, Ranks
from uniapl.distributed.sharding import clip_gradients, first_numbers
from uniapl.errors import TrainingError
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import (
    Packed,
    TokenSequence,
    completion_offsets,
    pack,
    per_token,
    sequence_of,
)
from uniapl.objective.advantages import constant_length_count, has_signal, reward_advantages
from uniapl.objective.unified import RolloutTokens, Scale, unified_objective
from uniapl.training.batch import StepData
from uniapl.training.term_gradients import TermGradients
from uniapl.types import Demonstration

SAMPLED_WEIGHTS = 1024
"""So many weights of each tensor are watched: enough to see whether updates move the weights at all."""

Metrics = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class StepTokens:
    """All rollout tokens of a step with what is said of them, fixed before the update's first forward."""

    sequences: list[TokenSequence]
    reward_advantages_T: Tensor
    """A_reward of the token's completion."""
    is_rewarded_T: Tensor
    """The reward counts: there is one, and the completion is not a masked truncation."""
    is_penalised_T: Tensor
    """The KL penalty counts: the policy sampled the completion, and it is not a masked truncation."""
    is_expert_T: Tensor
    """The expert's completion in a group: its ratio is 1, as if the policy had just sampled it."""
    sampling_logprobs_T: Tensor
    """log π as the generator computed it, nats."""
    old_logprobs_T: Tensor | None
    """log π_old, nats; None where the policy itself is still π_old."""
    ref_logprobs_T: Tensor | None
    """The reference's, nats; None without the KL term."""
    judgement: Judgement | None
    """What the discriminator says of them; None without one."""

    @classmethod
    def of(
        cls, data: StepData, judgement: Judgement | None, recipe: Recipe, device: torch.device
    ) -> "StepTokens | None":
        """Spread what is known per rollout over its tokens.

        Args:
            data: The step's part of the batch.
            judgement: Of its rollouts; None without a discriminator.
            recipe: The run.
            device: The policy's.

        Returns:
            None in a step without rollouts.
        """
        batch, config = data.rollouts, recipe.config
        if batch is None:
            return None
        sequences = list(map(sequence_of, batch.rollouts))
        rewards_GxN, has_reward_GxN = reward_table(batch, device)
        scale = config.objective.advantage_scale
        advantages_GxN = reward_advantages(rewards_GxN, has_reward_GxN, scale)
        # an expert below its group's mean is no reason to move away from it
        is_expert_S = torch.tensor([r.is_expert for r in batch.rollouts], device=device)
        floor_GxN = torch.where(is_expert_S.view_as(advantages_GxN), 0.0, -torch.inf)
        advantages_GxN = torch.maximum(advantages_GxN, floor_GxN)
        if config.objective.reward_normalisation == "signal":
            has_reward_GxN = has_signal(rewards_GxN, has_reward_GxN)
        masks = config.rollout.mask_truncated
        counts = torch.tensor([not (r.is_truncated and masks) for r in batch.rollouts])
        is_counted_T = per_token(counts.to(device), sequences)
        is_expert_T = per_token(is_expert_S, sequences)
        sampled = [x for r in batch.rollouts for x in r.sampling_logprobs]
        return cls(
            sequences=sequences,
            reward_advantages_T=per_token(advantages_GxN.flatten(), sequences),
            is_rewarded_T=per_token(has_reward_GxN.flatten(), sequences) & is_counted_T,
            is_penalised_T=is_counted_T & ~is_expert_T,
            is_expert_T=is_expert_T,
            sampling_logprobs_T=torch.tensor(sampled, device=device),
            old_logprobs_T=data.old_logprobs_T,
            ref_logprobs_T=data.ref_logprobs_T,
            judgement=judgement,
        )

    def part(self, packed: Packed, is_rollout: Tensor, logprobs: Tensor) -> RolloutTokens:
        """Return the rollout tokens of a micro-batch.

        Args:
            packed: The micro-batch.
            is_rollout: Which of its completion tokens are rollouts', [targets].
            logprobs: log π_θ of its completion tokens, nats, with gradient, [targets].
        """
        places, logprobs_T = packed.token_index[is_rollout], logprobs[is_rollout]
        # on the first update the ratio must be taken against these very numbers: else rounding keeps ρ from being 1
        now_T, is_expert_T = logprobs_T.detach(), self.is_expert_T[places]
        old_T = now_T
        if self.old_logprobs_T is not None:
            old_T = torch.where(is_expert_T, now_T, self.old_logprobs_T[places])
        judged, ref_T = self.judgement, self.ref_logprobs_T
        return RolloutTokens(
            logprobs_T=logprobs_T,
            old_logprobs_T=old_T,
            sampling_logprobs_T=torch.where(
                is_expert_T, old_T, self.sampling_logprobs_T[places].to(old_T.dtype)
            ),
            reward_advantages_T=self.reward_advantages_T[places],
            is_rewarded_T=self.is_rewarded_T[places],
            is_penalised_T=self.is_penalised_T[places],
            credit_T=judged.credit(places, old_T) if judged else None,
            is_credited_T=judged.is_credited_T[places] if judged else None,
            ref_logprobs_T=None if ref_T is None else ref_T[places],
            sequence_index_T=packed.sequence_index[is_rollout],
            num_sequences=len(packed.sequences),
        )

    @property
    def num_tokens(self) -> int:
        """T: all rollout tokens, masked ones included."""
        return len(self.sampling_logprobs_T)


def step_scale(
    recipe: Recipe,
    weights: TermWeights,
    experts: Sequence[Demonstration],
    tokens: StepTokens | None,
) -> Scale:
    """Return the terms' weights and the counts of their tokens in a step.

    Args:
        recipe: The run.
        weights: The terms' weights in this step.
        experts: Demonstrations of the SFT term.
        tokens: The rollouts' tokens; None in a step without rollouts.
    """
    config, objective = recipe.config, recipe.config.objective
    judged = tokens.judgement if tokens else None
    return Scale(
        sft_weight=weights.sft,
        grpo_weight=weights.grpo,
        adversarial_weight=weights.adversarial,
        kl_coef=weights.kl,
        num_sft=sum(len(d.token_ids) for d in experts),
        sft_token_weight=objective.sft_token_weight,
        num_rewarded=_num_rewarded(tokens, recipe) if tokens else 0,
        num_credited=int(judged.is_credited_T.sum()) if judged else 0,
        num_penalised=int(tokens.is_penalised_T.sum()) if tokens else 0,
        clip_low=objective.clip_low,
        clip_high=objective.clip_high,
        policy_gradient=objective.policy_gradient,
        importance_cap=config.rollout.importance_cap,
    )


def _num_rewarded(tokens: StepTokens, recipe: Recipe) -> int:
    """Return N_reward, in tokens: the rewarded tokens, or rewarded completions times the greatest length."""
    if recipe.config.objective.reward_normalisation != "constant":
        return int(tokens.is_rewarded_T.sum())
    starts = completion_offsets(tokens.sequences)[:-1]
    is_rewarded_S = tokens.is_rewarded_T[torch.tensor(starts, device=tokens.is_rewarded_T.device)]
    return int(constant_length_count(is_rewarded_S, recipe.config.rollout.max_completion_tokens))


@dataclass(frozen=True, slots=True)
class Accumulated:
    """What was measured while a step's gradient was formed."""

    metrics: Metrics
    """`objective/*` and `policy/*`."""
    old_logprobs_T: Tensor
    """log π_old of the rollout tokens, nats."""
    num_tokens: int
    """Through the policy's forward and backward, on all ranks; a shared prompt counts once."""


def accumulate(
    policy: LanguageModel,
    experts: Sequence[Demonstration],
    tokens: StepTokens | None,
    scale: Scale,
    recipe: Recipe,
    *,
    by_term: TermGradients | None,
    ranks: Ranks = ALONE,
) -> Accumulated:
    """Leave this rank's share of the gradient of the step's objective in the policy's weights.

    Args:
        policy: The model that learns.
        experts: Demonstrations of the SFT term.
        tokens: The rollouts' tokens; None in a step without rollouts.
        scale: Weights and counts.
        recipe: The run.
        by_term: Also receives the gradient of each term; what is learned stays the same, bit for bit.
        ranks: Each takes some of the micro-batches. The counts in `scale` are those of all, so gradients and
            measurements are summed, never averaged.
    """
    sequences = [*(tokens.sequences if tokens else []), *map(sequence_of, experts)]
    num_rollout_tokens = tokens.num_tokens if tokens else 0
    old_logprobs_T = ranks.blank(num_rollout_tokens, policy.device)
    totals: dict[str, Tensor] = {}
    micro_batches = pack(sequences, recipe.config.training.micro_batch_tokens)
    for packed, is_own in ranks.deal(micro_batches):
        packed = packed.to(policy.device)
        is_rollout = packed.token_index < num_rollout_tokens
        temperature = torch.where(is_rollout, recipe.config.rollout.temperature, 1.0)
        if (
            not is_own
        ):  # under FSDP2 the other ranks wait for this rank's part in the forward and backward
            (policy.logprobs(packed, temperature).sum() * 0).backward()
            continue
        sums, old_T = _backward(
            policy.logprobs(packed, temperature), packed, is_rollout, tokens, scale, by_term
        )
        old_logprobs_T[packed.token_index[is_rollout]] = old_T
        for name, value in sums.items():
            totals[name] = totals[name] + value if name in totals else value
    ranks.sum_([old_logprobs_T], "log π_old")
    own = {name: total.item() for name, total in totals.items()}
    sums = ranks.sums(own, "the step's metrics")
    num_tokens = sum(len(packed.input_ids) for packed in micro_batches)
    return Accumulated(_metrics(sums, scale), old_logprobs_T, num_tokens)


def _backward(
    logprobs: Tensor,
    packed: Packed,
    is_rollout: Tensor,
    tokens: StepTokens | None,
    scale: Scale,
    by_term: TermGradients | None,
) -> tuple[Mapping[str, Tensor], Tensor]:
    """Add a micro-batch's gradient; return its sums for the metrics, and log π_old of its rollout tokens, nats.

    A function of its own, so that what autograd keeps of a micro-batch is gone before the next one's forward.
    """
    rollouts = None
    if tokens is not None and is_rollout.any():
        rollouts = tokens.part(packed, is_rollout, logprobs)
    experts_T = None if is_rollout.all() else logprobs[~is_rollout]
    objective = unified_objective(experts_T, rollouts, scale, separates=by_term is not None)
    if by_term is not None:
        by_term.add(objective.terms)
    objective.loss.backward()
    return objective.sums, rollouts.old_logprobs_T if rollouts else logprobs.detach()[is_rollout]


def _metrics(sums: Mapping[str, float], scale: Scale) -> Metrics:
    """Return `objective/*` and `policy/*` metrics: sums over the counts of their tokens, None without any."""

    def mean(name: str, count: int) -> float | None:
        return sums[name] / count if name in sums and count else None

    num_weighted = int(sums.get("weighted", 0))
    return {
        "objective/loss": mean("loss", 1),
        "objective/sft": mean("sft", scale.num_sft),
        "objective/grpo": mean("grpo", scale.num_rewarded),
        "objective/adversarial": mean("adversarial", scale.num_credited),
        "objective/sft_token_weights": scale.sft_weight * (mean("phi", scale.num_sft) or 0.0),
        "objective/grpo_token_weights": mean("grpo_weights", 1),
        "objective/adversarial_token_weights": mean("adversarial_weights", 1),
        "policy/entropy": mean("entropy", scale.num_penalised),
        "policy/kl_reference": mean("kl", scale.num_penalised),
        "policy/ratio_mean": mean("ratio", scale.num_penalised),
        "policy/clip_fraction": mean("clipped", num_weighted),
        "policy/sampling_gap": mean("gap", scale.num_penalised),
    }


def anything_counts(metrics: Metrics, scale: Scale) -> bool:
    """Return whether a token has a weight in any term.

    If none has, the step must not be applied: the optimiser's momentum alone would move the policy.
    """
    names = ("sft", "grpo", "adversarial", "pairs")
    has_weight = any(metrics.get(f"objective/{name}_token_weights") for name in names)
    return has_weight or bool(scale.kl_coef and scale.num_penalised)


def apply(
    policy: LanguageModel,
    optimizer: torch.optim.Optimizer,
    loss: float,
    learning_rate: float,
    max_grad_norm: float,
    ranks: Ranks = ALONE,
) -> Metrics:
    """Update the policy with the gradient in its weights.

    Args:
        policy: The model that learns.
        optimizer: Of its weights.
        loss: The step's.
        learning_rate: Of this step.
        max_grad_norm: A gradient with a larger norm is scaled down to it.
        ranks: The ranks over which the policy's weights are shared out, if they are.

    Returns:
        The gradient's norm before it is scaled, and the share of watched weights that moved.

    Raises:
        TrainingError: The loss or the gradient is not finite; the weights are then unchanged.
    """
    norm = clip_gradients(policy.trainable_parameters(), max_grad_norm)
    for name, value in (("loss", loss), ("gradient norm", norm)):
        if not math.isfinite(value):
            optimizer.zero_grad(set_to_none=True)
            raise TrainingError(
                f"the policy's {name} is {value}; the last checkpoint is kept; lower "
                "optimizer.learning_rate and start again in another output_dir"
            )
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    before = _some_weights(optimizer)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    has_moved = _some_weights(optimizer) != before
    moved = has_moved.double().mean().item()
    if ranks.in_lockstep:
        counts = {"moved": int(has_moved.sum()), "all": len(has_moved)}
        found = ranks.sums(counts, "which weights have moved")
        moved = found["moved"] / found["all"]
    return {"optimizer/grad_norm": norm, "optimizer/moved_fraction": moved}


def _some_weights(optimizer: torch.optim.Optimizer) -> Tensor:
    """Return the first weights of each tensor that learns, in one row; this rank's of them if they are shared out."""
    learning = [p for group in optimizer.param_groups for p in group["params"]]
    return torch.cat([first_numbers(p, SAMPLED_WEIGHTS) for p in learning])
