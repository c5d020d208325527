"""What the loop asks of a discriminator, and what a discriminator says of rollouts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from uniapl.data.chat import Chat
from uniapl.models.packing import TokenSequence
from uniapl.types import MixedBatch, RolloutBatch

PolicyLogprobs = Callable[[Sequence[TokenSequence]], Tensor]
"""log π_old of all completion tokens of some sequences: flat [tokens], nats, at the rollouts' temperature, no gradient."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a discriminator says of a step's rollouts before it learns from the step."""

    credit_T: Tensor
    """A_adv of each rollout token; any number where it does not count."""
    is_credited_T: Tensor
    """True where the credit counts: N_adv counts these tokens."""
    logits_GxN: Tensor
    """d of each rollout, for people to read."""
    health: Mapping[str, float] = field(default_factory=dict)
    """`discriminator/*` metrics of the step."""


class Discriminator(Protocol):
    """d(x, y) in the loop: it judges a step's rollouts, then learns from the step if its form learns."""

    def judge(
        self, batch: RolloutBatch, data: MixedBatch | None, policy_logprobs: PolicyLogprobs
    ) -> Judgement:
        """Judge rollouts; leave the gradient of the form's own loss in its weights.

        Args:
            batch: The step's rollouts.
            data: What the step draws: the form learns from it. None: it only judges.
            policy_logprobs: Gives log π_old of sequences that the policy did not sample.
        """
        ...

    def learn(self, learning_rate: float) -> dict[str, float]:
        """Update the weights with the gradient that `judge` left; return metrics of the update.

        Raises:
            TrainingError: The gradient is not finite; the weights are then unchanged.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything that moves."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            InputError: The state is of another discriminator.
        """
        ...

    def save(self, folder: Path, chat: Chat, dtype: torch.dtype) -> bool:
        """Write a model folder for `uniapl evaluate --pairs`, or return False where there is none to write."""
        ...
