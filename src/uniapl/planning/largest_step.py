"""The data of a run's first step, every rollout as long as it may be, and how several devices divide it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from uniapl.config.recipe import Recipe
from uniapl.config.schema import Config
from uniapl.data.mixture import Mixture
from uniapl.distributed import ALONE, Ranks
from uniapl.models.packing import Packed, TokenSequence, pack, sequence_of
from uniapl.planning.judges import OtherModel, hinted
from uniapl.runs.setup import Data
from uniapl.types import Demonstration, Prompt

T = TypeVar("T")


@dataclass(slots=True)
class TokenCounts:
    """Tokens of one step, where every rollout is as long as it may be."""

    sampled: int
    trained: int
    """Through the policy's forward and backward pass; a shared prompt counts once."""
    judged: int
    """Through the discriminator's forward; what it learns from also backward. 0 behind servers."""


@dataclass(frozen=True, slots=True)
class Pass:
    """A model reads micro-batches, one after the other."""

    role: str
    micro_batches: list[Packed]
    learns: bool
    """Whether a backward pass follows each forward."""


@dataclass(slots=True)
class LargestStep:
    """What goes through the models in one step and one evaluation."""

    rolled_out: list[Prompt] = field(default_factory=list)
    """One prompt per rollout."""
    update: list[Packed] = field(default_factory=list)
    pairs: list[Packed] = field(default_factory=list)
    """Chosen and rejected completions that the policy learns from."""
    taught: list[Packed] = field(default_factory=list)
    """What the discriminator learns from."""
    scored: list[Packed] = field(default_factory=list)
    """What it only judges."""
    measured: list[Packed] = field(default_factory=list)
    """What tells whether the discriminator is right: held-out demonstrations, and rollouts where it ranks."""
    texts: list[int] = field(default_factory=list)
    """Tokens of each text that a scorer reads."""
    evaluated: list[Prompt] = field(default_factory=list)
    answers: list[Packed] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)
    """Of models over micro-batches, those of rewards and evaluations aside."""

    @classmethod
    def of(cls, recipe: Recipe, data: Data, other: OtherModel | None) -> "LargestStep":
        """Draw the first step's data, and let every rollout reach the limit of its length."""
        step, config = cls(), recipe.config
        limit, room = config.training.micro_batch_tokens, config.rollout.max_completion_tokens
        mixture = Mixture(data.demonstrations, data.prompts, data.pairs, seed=config.seed)
        drawn = mixture.next_batch(
            recipe.num_demonstrations, recipe.num_preference_prompts, recipe.num_pairs
        )
        experts = list(map(sequence_of, drawn.demonstrations))
        paired = drawn.demonstrations[: recipe.num_demonstration_prompts]
        size = config.rollout.group_size
        step.rolled_out = [
            prompt for prompt in (*(d.prompt for d in paired), *drawn.prompts) for _ in range(size)
        ]
        rollouts = [_answer(prompt, room) for prompt in step.rolled_out]
        step.update = pack([*rollouts, *experts], limit)
        step._pass("policy", step.update, learns=True)
        sampled = pack(rollouts, limit) if rollouts else []
        is_asked = config.rollout.updates_per_rollout > 1 or recipe.shapes_reward
        if is_asked and recipe.old_logprobs == "computed":
            step._pass("policy", sampled)  # log π_old; a batch's first step may go without
        if recipe.has_kl:
            step._pass("reference", sampled)
        pairs = [
            TokenSequence(pair.prompt.token_ids, ids)
            for pair in drawn.pairs
            for ids in (pair.chosen_ids, pair.rejected_ids)
        ]
        if recipe.has_pairs:
            step.pairs = pack(pairs, limit, split_groups=False)
            step._pass("policy", step.pairs, learns=True)
            step._pass("reference", step.pairs)
        held_out = data.held_out[: recipe.num_held_out]
        if recipe.form == "reference":
            ranked = held_out if recipe.samples_held_out else ()
            step.texts = other.text_lengths(recipe, [*paired, *ranked]) if other else []
        elif recipe.form == "expert":
            step._score(recipe, rollouts, paired)
        elif recipe.has_discriminator:
            step._judge(recipe, rollouts, experts)
        if recipe.form == "scalar":
            step.taught += pack(pairs, limit, split_groups=False)
        step._pass("discriminator", step.taught, learns=True)
        step._pass("discriminator", step.scored)
        if recipe.has_discriminator:
            step._measure(recipe, held_out)
        if data.evaluation:
            step.evaluated = list(data.evaluation.prompts)
            answers = [_answer(p, answer_limit(config)) for p in step.evaluated]
            step.answers = pack(answers, limit)
        return step

    def _pass(self, role: str, micro_batches: list[Packed], *, learns: bool = False) -> None:
        if micro_batches:
            self.passes.append(Pass(role, micro_batches, learns))

    def _measure(self, recipe: Recipe, held_out: Sequence[Demonstration]) -> None:
        """Add what measures the discriminator on held-out demonstrations."""
        config, size = recipe.config, recipe.config.rollout.group_size
        read = list(map(sequence_of, held_out))
        if recipe.samples_held_out:
            prompts = [d.prompt for d in held_out for _ in range(size)]
            self.rolled_out += prompts
            read += [_answer(prompt, config.rollout.max_completion_tokens) for prompt in prompts]
        if not read or config.discriminator.hint:
            return
        micro_batches = pack(read, config.training.micro_batch_tokens, split_groups=False)
        if recipe.form in ("likelihood", "expert"):
            self._pass("policy", micro_batches)
        if recipe.form != "reference" and not config.discriminator.servers:
            self.measured = micro_batches
            self._pass("discriminator", micro_batches)

    def _score(
        self, recipe: Recipe, rollouts: list[TokenSequence], paired: Sequence[Demonstration]
    ) -> None:
        """Say what a local expert reads: with hints, demonstrations stand in the prompts of their rollouts alone."""
        config, size = recipe.config, recipe.config.rollout.group_size
        if config.discriminator.servers:
            return
        if config.discriminator.hint:
            rollouts = hinted(rollouts, paired, size)
        self.scored = pack(rollouts, config.training.micro_batch_tokens)

    def _judge(
        self, recipe: Recipe, rollouts: list[TokenSequence], experts: list[TokenSequence]
    ) -> None:
        """Say what the discriminator learns from, and what it only scores."""
        limit = recipe.config.training.micro_batch_tokens
        if recipe.form == "likelihood":
            self.taught, self.scored = pack(experts, limit), pack(rollouts, limit)
            return
        num_paired = recipe.num_demonstration_prompts
        ranked = num_paired * recipe.config.rollout.group_size
        taught = [*rollouts[:ranked], *experts[:num_paired]]
        self.taught = pack(taught, limit, split_groups=False)
        self.scored = pack(rollouts[ranked:], limit, split_groups=False)

    def tokens(self, config: Config, ranks: Sequence[Ranks] = (ALONE,)) -> TokenCounts:
        """Count those of the busiest of some ranks."""
        size, room = config.rollout.group_size, config.rollout.max_completion_tokens
        groups = self.rolled_out[::size]
        return TokenCounts(
            sampled=max(len(own) for own in dealt(groups, ranks)) * size * room,
            trained=_most(self.update, ranks) + _most(self.pairs, ranks),
            judged=_most(self.taught, ranks)
            + _most(self.scored, ranks)
            + _most(self.measured, ranks)
            + max(sum(own) for own in dealt(self.texts, ranks)),
        )


def dealt(items: Sequence[T], ranks: Sequence[Ranks]) -> list[list[T]]:
    """Return what each rank gets of some items."""
    return [[item for item, _ in rank.deal(items)] for rank in ranks]


def _most(micro_batches: Sequence[Packed], ranks: Sequence[Ranks]) -> int:
    return max(sum(len(p.input_ids) for p in own) for own in dealt(micro_batches, ranks))


def _answer(prompt: Prompt, num_tokens: int) -> TokenSequence:
    return TokenSequence(prompt.token_ids, (0,) * num_tokens)


def answer_limit(config: Config) -> int:
    """Return the tokens that an answer of an evaluation may have."""
    return config.evaluation.max_completion_tokens or config.rollout.max_completion_tokens
