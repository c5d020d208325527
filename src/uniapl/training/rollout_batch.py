"""One batch of rollouts with all that stays fixed while steps learn from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from uniapl.models.packing import TokenSequence, completion_offsets, per_token
from uniapl.types import Demonstration, PreferencePair, Reward, Rollout


@dataclass(frozen=True, slots=True)
class RankedGroup:
    """A completion and others of the same prompt that rank below it: a Bradley-Terry pair each."""

    best: TokenSequence
    others: tuple[TokenSequence, ...]


def ranked(pair: PreferencePair) -> RankedGroup:
    """Return the token ids of a pair of the user's."""
    chosen, rejected = (
        TokenSequence(pair.prompt.token_ids, ids) for ids in (pair.chosen_ids, pair.rejected_ids)
    )
    return RankedGroup(chosen, (rejected,))


def sequence_of(sample: Demonstration | Rollout) -> TokenSequence:
    """Return the token ids of a demonstration or a rollout."""
    return TokenSequence(sample.prompt.token_ids, sample.token_ids)


@dataclass(slots=True)
class RolloutBatch:
    """Groups of rollouts; the first ones answer the prompts of `experts`, in their order.

    "Flat" tensors hold one value per completion token of `sequences`.
    """

    rollouts: list[Rollout]
    """Siblings adjacent."""
    group_size: int
    experts: list[Demonstration]
    """The first `num_pairs` share their prompts with the first groups; the others only calibrate p_φ."""
    num_pairs: int
    """How many of the groups answer a demonstration's prompt."""
    mask_truncated: bool
    rewards: list[Reward] = field(default_factory=list)
    old_logprobs: Tensor | None = None
    """log π_old, flat over rollouts and experts."""
    ref_logprobs: Tensor | None = None
    """The reference's, flat over rollouts."""

    @property
    def sequences(self) -> list[TokenSequence]:
        """Rollouts, then experts."""
        return [sequence_of(s) for s in (*self.rollouts, *self.experts)]

    @property
    def rollout_sequences(self) -> list[TokenSequence]:
        """The rollouts alone."""
        return [sequence_of(r) for r in self.rollouts]

    @property
    def num_rollout_tokens(self) -> int:
        """Sampled tokens, masked ones included."""
        return sum(len(r.token_ids) for r in self.rollouts)

    @property
    def num_groups(self) -> int:
        """Prompts that were rolled out."""
        return len(self.rollouts) // self.group_size

    def is_counted(self, device: torch.device) -> Tensor:
        """[groups, group_size]: False on rollouts that truncation masks out."""
        flags = [not (r.is_truncated and self.mask_truncated) for r in self.rollouts]
        return torch.tensor(flags, device=device).view(-1, self.group_size)

    def reward_table(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Total rewards [groups, group_size], 0 where there is none, and whether there is one."""
        totals = [r.total for r in self.rewards]
        values = torch.tensor([0.0 if t is None else t for t in totals], device=device)
        has_reward = torch.tensor([t is not None for t in totals], device=device)
        return values.view(-1, self.group_size), has_reward.view(-1, self.group_size)

    def sampling_logprobs(self, device: torch.device) -> Tensor:
        """Return log π_sampled, flat over rollouts."""
        return torch.tensor([x for r in self.rollouts for x in r.sampling_logprobs], device=device)

    def per_rollout_token(self, values: Tensor) -> Tensor:
        """Repeat a value per rollout ([rollouts] or [groups, group_size]) for each of its tokens."""
        return per_token(values.flatten(), self.rollout_sequences)

    def offsets(self) -> Sequence[int]:
        """Start of each sequence in the flat order."""
        return completion_offsets(self.sequences)

    def token_places(self, members: Sequence[int], device: torch.device) -> Tensor:
        """Return the places in the flat order of all tokens of some sequences, those of the first one first."""
        starts = self.offsets()
        places = [place for i in members for place in range(starts[i], starts[i + 1])]
        return torch.tensor(places, dtype=torch.long, device=device)
