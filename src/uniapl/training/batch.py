"""The first half of a step: it draws data and rewards the rollouts of its prompts. `sampling` asks for the rollouts.

One batch serves `rollout.updates_per_rollout` steps. Each of them gets a part of its own: other demonstrations and
other prompts, so that no rollout is learned from twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from uniapl.config.recipe import Recipe, TermWeights
from uniapl.data.mixture import Mixture, Stream
from uniapl.discriminators import Judgement
from uniapl.discriminators.health import completion_logits, judged_completions
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
    """log π_old of each rollout token, nats. None where π is still π_old: the update's own forward then gives it."""
    ref_logprobs_T: Tensor | None = None
    """The reference's log-prob of each rollout token, nats; None without the KL term."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a batch draws from the data, by part, and what it asks the policy to answer."""

    drawn: list[MixedBatch]
    measured: list[tuple[Demonstration, ...]]
    """Held-out demonstrations that measure the constraint."""
    asked: list[list[Prompt]]
    """Prompts whose rollouts train; none in a batch without rollouts."""
    ranked: list[list[Prompt]]
    """Prompts of the held-out demonstrations, where a rollout measures them."""

    @property
    def prompts(self) -> list[Prompt]:
        """All prompts, in the order in which they are sampled."""
        return [prompt for part in (*self.asked, *self.ranked) for prompt in part]


def draw_request(
    recipe: Recipe, mixture: Mixture, held_out: Stream[Demonstration], weights: TermWeights
) -> Request:
    """Draw the data of a new batch.

    Args:
        recipe: The run.
        mixture: Where demonstrations, prompts and pairs come from.
        held_out: Where the demonstrations that measure the constraint come from.
        weights: The terms' weights while the batch serves.

    Returns:
        What each part of the batch has drawn; no prompts to answer if no term and no discriminator needs rollouts.
    """
    drawn = _draw(recipe, mixture, weights)
    if not recipe.rolls_out(weights):
        return Request(drawn, [], [], [])
    measured = _held_out(recipe, held_out, len(drawn))
    asked = [_prompts(part, recipe.num_demonstration_prompts) for part in drawn]
    ranked = [[d.prompt for d in part if recipe.samples_held_out] for part in measured]
    return Request(drawn, measured, asked, ranked)


def draw_batch(
    recipe: Recipe,
    players: Players,
    request: Request,
    sampled: list[Rollout],
    weights: TermWeights,
    state: TrainerState,
) -> list[StepData]:
    """Return the parts of a new batch, one per step that it serves, in their order.

    Where these weights need no rollouts, the parts have none.

    Args:
        recipe: The run.
        players: Who rewards.
        request: What the batch has drawn and asked.
        sampled: Rollouts of its prompts, siblings adjacent; none in a batch without rollouts.
        weights: The terms' weights while the batch serves.
        state: Where the run stands, for reward functions.
    """
    drawn, measured, asked, ranked = (
        request.drawn,
        request.measured,
        request.asked,
        request.ranked,
    )
    if not asked:
        return [StepData(part) for part in drawn]
    size = recipe.config.rollout.group_size
    num_own = size * sum(map(len, asked))
    if recipe.config.rollout.expert_in_group:
        paired = [
            _experts(part, len(prompts), recipe.num_demonstration_prompts)
            for part, prompts in zip(drawn, asked, strict=True)
        ]
        _put_experts(sampled, [expert for part in paired for expert in part], size)
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
        _step_data(parts, recipe, players, weights, is_first=number == 0)
        for number, parts in enumerate(zip(drawn, batches, held, strict=True))
    ]


def _step_data(
    parts: tuple[MixedBatch, RolloutBatch, RolloutBatch],
    recipe: Recipe,
    players: Players,
    weights: TermWeights,
    *,
    is_first: bool,
) -> StepData:
    """Return a part with the log-probs that must be known before the policy moves."""
    drawn, rollouts, held_out = parts
    is_asked_for = not is_first or recipe.shapes_reward
    reference = players.reference if weights.kl else None
    ranks = players.ranks
    return StepData(
        drawn=drawn,
        rollouts=rollouts,
        held_out=held_out if held_out.experts else None,
        old_logprobs_T=_old_logprobs(rollouts, recipe, players) if is_asked_for else None,
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
    """Return the demonstrations, prompts and pairs of each part."""
    return [
        mixture.next_batch(
            recipe.num_demonstrations if recipe.draws_demonstrations(weights) else 0,
            recipe.num_preference_prompts if recipe.rolls_out(weights) else 0,
            recipe.num_pairs,
        )
        for _ in range(recipe.config.rollout.updates_per_rollout)
    ]


def _held_out(
    recipe: Recipe, held_out: Stream[Demonstration], num_parts: int
) -> list[tuple[Demonstration, ...]]:
    """Return the held-out demonstrations of each part.

    Log-ratios are all measured in the first part: there the policy is still π_old, as it is for the rollouts that they
    are held against.
    """
    taken = [held_out.take(recipe.num_held_out) for _ in range(num_parts)]
    if recipe.samples_held_out:
        return taken
    return [tuple(d for part in taken for d in part), *[()] * (num_parts - 1)]


def _prompts(part: MixedBatch, num_paired: int) -> list[Prompt]:
    """Return the prompts of a part that are rolled out: of its first demonstrations, then its preference prompts."""
    return [*(d.prompt for d in part.demonstrations[:num_paired]), *part.prompts]


def _experts(
    part: MixedBatch, num_groups: int, num_paired: int
) -> tuple[Demonstration | None, ...]:
    """Return the demonstration of each group's prompt, in the order of `_prompts`; None for a preference prompt."""
    paired = part.demonstrations[:num_paired]
    return (*paired, *[None] * (num_groups - len(paired)))


def _put_experts(
    sampled: list[Rollout], experts: Sequence[Demonstration | None], size: int
) -> None:
    """Let the expert's completion take the place of the last sample of its prompt, in place."""
    for group, expert in enumerate(experts):
        if expert is None:
            continue
        place = group * size + size - 1
        sampled[place] = replace(
            sampled[place],
            completion=expert.completion,
            token_ids=expert.token_ids,
            sampling_logprobs=(0.0,) * len(expert.token_ids),
            finish_reason="stop",
            is_expert=True,
        )


def shaped(data: StepData, judgement: Judgement, strength: float) -> StepData:
    """Return the step's data with λ·d(x, y) added to the total reward of every rollout that was judged.

    For a form that credits completions, d is its logit. For a log-ratio form, d is the mean of log p_expert - log π_old
    over the completion's tokens, in nats. The breakdown keeps what the rollout earned without it.

    Args:
        data: The step's, with rollouts and log π_old.
        judgement: Of these rollouts.
        strength: λ, in reward units per unit of d.
    """
    batch, old_logprobs_T = data.rollouts, data.old_logprobs_T
    assert batch is not None
    assert old_logprobs_T is not None
    logits = completion_logits(batch, judgement, old_logprobs_T).flatten().tolist()
    is_judged = judged_completions(batch, judgement).flatten().tolist()
    rewards = tuple(
        replace(reward, total=reward.total + strength * logit)
        if judged and reward.total is not None
        else reward
        for reward, logit, judged in zip(batch.rewards, logits, is_judged, strict=True)
    )
    return replace(data, rollouts=replace(batch, rewards=rewards))


def _take(source: Iterator[T], count: int) -> tuple[T, ...]:
    return tuple(islice(source, count))


def _old_logprobs(batch: RolloutBatch, recipe: Recipe, players: Players) -> Tensor:
    """Return log π_old of a part's rollout tokens, nats, [T]: as the generator computed it, or by a forward."""
    policy = players.policy
    if recipe.old_logprobs == "sampled":
        sampled = [x for r in batch.rollouts for x in r.sampling_logprobs]
        return torch.tensor(sampled, device=policy.device)
    return flat_logprobs(policy, list(map(sequence_of, batch.rollouts)), recipe, players.ranks)


def _ref_logprobs(
    batch: RolloutBatch, recipe: Recipe, reference: LanguageModel | None, ranks: Ranks
) -> Tensor | None:
    """Return the reference's log-probs of a part's rollout tokens, nats, [T]; None without a reference."""
    if reference is None:
        return None
    return flat_logprobs(reference, list(map(sequence_of, batch.rollouts)), recipe, ranks)


def flat_logprobs(
    model: LanguageModel,
    sequences: Sequence[TokenSequence],
    recipe: Recipe,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Return a model's log-probs of all completion tokens, at the rollouts' temperature.

    Args:
        model: The policy or the reference.
        sequences: What to score.
        recipe: Says the temperature and the size of a micro-batch.
        ranks: Each forwards some of the micro-batches; all get all log-probs.

    Returns:
        [T], nats, in the order of `completion_offsets`, without gradient.
    """
    limit, temperature = (
        recipe.config.training.micro_batch_tokens,
        recipe.config.rollout.temperature,
    )
    packed, num_tokens = pack(sequences, limit), completion_offsets(sequences)[-1]
    return model.flat_logprobs(packed, num_tokens, temperature, ranks)
