"""The first half of a step: draw data, sample the prompts, reward the rollouts.

One batch serves `rollout.updates_per_rollout` steps. Each of them gets a part of its own: other demonstrations and
other prompts, so that no rollout is learned from twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from uniapl.config.recipe import Recipe, TermWeights
from uniapl.data.mixture import Mixture, Stream
from uniapl.distributed import ALONE, Ranks
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import TokenSequence, completion_offsets, pack, sequence_of
from uniapl.rewards import TrainerState, score
from uniapl.training.players import Players
from uniapl.types import Demonstration, MixedBatch, Prompt, Reward, Rollout, RolloutBatch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepData:
    """What one step learns from."""

    drawn: MixedBatch
    rollouts: RolloutBatch | None = None
    held_out: RolloutBatch | None = None
    """Held-out demonstrations, with rollouts on their prompts where the discriminator ranks completions."""
    old_logprobs_T: Tensor | None = None
    """log π_old per rollout token; None where the step is the first to learn from its batch: π is still π_old."""
    ref_logprobs_T: Tensor | None = None
    """The reference's log-probs per rollout token; None without the KL term."""


def draw_batch(
    recipe: Recipe,
    players: Players,
    mixture: Mixture,
    held_out: Stream[Demonstration],
    weights: TermWeights,
    state: TrainerState,
) -> list[StepData]:
    """Return the parts of a new batch, one per step that it serves, in their order.

    Args:
        recipe: The run.
        players: Sample and reward.
        mixture: Where demonstrations, prompts and pairs come from.
        held_out: Where the demonstrations that measure the constraint come from.
        weights: The terms' weights while the batch serves.
        state: Where the run stands, for reward functions.
    """
    drawn = _draw(recipe, mixture, weights)
    if not recipe.rolls_out(weights):
        return [StepData(part) for part in drawn]
    measured = [held_out.take(recipe.num_held_out) for _ in drawn]
    asked = [_prompts(part, recipe.num_demonstration_prompts) for part in drawn]
    ranked = [[d.prompt for d in part if recipe.samples_held_out] for part in measured]
    size = recipe.config.rollout.group_size
    players.policy.gather()
    with players.policy.autocast():
        sampled = players.generator.sample(
            [prompt for part in (*asked, *ranked) for prompt in part], size
        )
    num_own = size * sum(map(len, asked))
    rewards, logged = _rewarded(sampled[:num_own], size, players, state)
    own, rest = iter(sampled), iter(rewards)
    batches = [
        RolloutBatch(
            rollouts=_take(own, size * len(prompts)),
            group_size=size,
            experts=_experts(part, len(prompts), recipe.num_demonstration_prompts),
            rewards=_take(rest, size * len(prompts)),
            reward_metrics=logged,
        )
        for part, prompts in zip(drawn, asked, strict=True)
    ]
    held = [
        RolloutBatch(_take(own, size * len(prompts)), size, part)
        for part, prompts in zip(measured, ranked, strict=True)
    ]
    return [
        _step_data((part, batch, held_out_batch), recipe, players, weights)
        for part, batch, held_out_batch in zip(drawn, batches, held, strict=True)
    ]


def _step_data(
    parts: tuple[MixedBatch, RolloutBatch, RolloutBatch],
    recipe: Recipe,
    players: Players,
    weights: TermWeights,
) -> StepData:
    """Add the log-probs that must be known before the policy moves."""
    drawn, rollouts, held_out = parts
    moves_before = recipe.config.rollout.updates_per_rollout > 1
    reference = players.reference if weights.kl else None
    ranks = players.ranks
    return StepData(
        drawn=drawn,
        rollouts=rollouts,
        held_out=held_out if held_out.experts else None,
        old_logprobs_T=_old_logprobs(rollouts, recipe, players) if moves_before else None,
        ref_logprobs_T=_ref_logprobs(rollouts, recipe, reference, ranks),
    )


def _rewarded(
    rollouts: Sequence[Rollout], group_size: int, players: Players, state: TrainerState
) -> tuple[list[Reward], dict[str, float]]:
    """Return what the rollouts earned, and what the reward functions logged with it."""
    logged: dict[str, float] = {}
    rewards = score(
        rollouts,
        players.rewards,
        players.columns,
        trainer_state=state,
        logged=logged,
        ranks=players.ranks,
        group_size=group_size,
    )
    return rewards, logged


def _draw(recipe: Recipe, mixture: Mixture, weights: TermWeights) -> list[MixedBatch]:
    """Return what each part draws from the data."""
    return [
        mixture.next_batch(
            recipe.num_demonstrations if recipe.draws_demonstrations(weights) else 0,
            recipe.num_preference_prompts if recipe.rolls_out(weights) else 0,
            recipe.num_pairs,
        )
        for _ in range(recipe.config.rollout.updates_per_rollout)
    ]


def _prompts(part: MixedBatch, num_paired: int) -> list[Prompt]:
    return [*(d.prompt for d in part.demonstrations[:num_paired]), *part.prompts]


def _experts(
    part: MixedBatch, num_groups: int, num_paired: int
) -> tuple[Demonstration | None, ...]:
    paired = part.demonstrations[:num_paired]
    return (*paired, *[None] * (num_groups - len(paired)))


def _take(source: Iterator[T], count: int) -> tuple[T, ...]:
    return tuple(islice(source, count))


def _old_logprobs(batch: RolloutBatch, recipe: Recipe, players: Players) -> Tensor:
    """Return log π_old where the policy will have moved before it learns from this part."""
    policy = players.policy
    if recipe.old_logprobs == "sampled":
        sampled = [x for r in batch.rollouts for x in r.sampling_logprobs]
        return torch.tensor(sampled, device=policy.device)
    return flat_logprobs(policy, list(map(sequence_of, batch.rollouts)), recipe, players.ranks)


def _ref_logprobs(
    batch: RolloutBatch, recipe: Recipe, reference: LanguageModel | None, ranks: Ranks
) -> Tensor | None:
    if reference is None:
        return None
    return flat_logprobs(reference, list(map(sequence_of, batch.rollouts)), recipe, ranks)


def flat_logprobs(
    model: LanguageModel,
    sequences: Sequence[TokenSequence],
    recipe: Recipe,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Return log-probs of all completion tokens at the rollouts' temperature: [tokens], nats, without gradient."""
    limit, temperature = (
        recipe.config.training.micro_batch_tokens,
        recipe.config.rollout.temperature,
    )
    packed, num_tokens = pack(sequences, limit), completion_offsets(sequences)[-1]
    return model.flat_logprobs(packed, num_tokens, temperature, ranks)
