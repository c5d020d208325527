"""What the loop asks of a discriminator, and what a discriminator says of rollouts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from uniapl.data.chat import Chat
from uniapl.models.packing import TokenSequence
from uniapl.objective.adversarial import token_credit
from uniapl.types import MixedBatch, RolloutBatch

PolicyLogprobs = Callable[[Sequence[TokenSequence]], Tensor]
"""log π of all completion tokens of some sequences: flat [tokens], nats, at the rollouts' temperature, no gradient."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a discriminator says of a step's rollouts before it learns from the step.

    A form that judges completions fills in `credit_T` and `logits_GxN`. A log-ratio form fills in
    `expert_logprobs_T`: its credit, log p_expert - log π_old, is complete where log π_old is known, and the first
    update on a batch learns that from its own forward.
    """

    is_credited_T: Tensor
    """True where the credit counts: N_adv counts these tokens."""
    credit_T: Tensor | None = None
    """A_adv of each rollout token; any number where it does not count."""
    logits_GxN: Tensor | None = None
    """d of each rollout."""
    expert_logprobs_T: Tensor | None = None
    """log p_expert of each rollout token, nats."""
    credit_clamp: float = float("inf")
    """Bound of a token's log-ratio as credit, nats."""
    health: Mapping[str, float] = field(default_factory=dict)
    """`discriminator/*` metrics that are known before the update."""

    def credit(self, places: Tensor, old_logprobs_T: Tensor) -> Tensor:
        """Return A_adv of some rollout tokens, [tokens].

        Args:
            places: Their indices among all rollout tokens of the step, [tokens].
            old_logprobs_T: log π_old of these tokens, [tokens].
        """
        if self.credit_T is not None:
            return self.credit_T[places]
        assert self.expert_logprobs_T is not None
        return token_credit(self.expert_logprobs_T[places] - old_logprobs_T, self.credit_clamp)


class Discriminator(Protocol):
    """d(x, y) in the loop: it judges a step's rollouts, then learns from the step if its form learns."""

    def judge(
        self, batch: RolloutBatch, data: MixedBatch, policy_logprobs: PolicyLogprobs
    ) -> Judgement:
        """Judge rollouts; leave the gradient of the form's own loss in its weights.

        Args:
            batch: The step's rollouts.
            data: What the step drew: demonstrations and pairs to learn from.
            policy_logprobs: Gives log π of sequences that the policy did not sample.
        """
        ...

    def measure(
        self, held_out: RolloutBatch, policy_logprobs: PolicyLogprobs
    ) -> Mapping[str, float]:
        """Return what held-out demonstrations say of it: `discriminator/held_out_*` metrics.

        Args:
            held_out: `experts` are the demonstrations. Rollouts on their prompts are there if the form ranks
                completions (`Recipe.samples_held_out`).
            policy_logprobs: As in `judge`.
        """
        ...

    def learn(self, learning_rate: float) -> Mapping[str, float]:
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
