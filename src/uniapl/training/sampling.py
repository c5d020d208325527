"""Asks for rollouts: for this batch now, or for the next batch while the steps of this one train.

With `rollout.ahead` the servers are never idle, and the policy learns from rollouts of weights that are one batch
older. The ratio of the objective is still taken against the weights at the batch's first update, and the truncated
importance weights make up for what lies between sampling and that (decoupled PPO, arXiv 2110.00641).
"""

from dataclasses import dataclass
from typing import Any

import torch

from uniapl.config.recipe import Recipe, TermWeights
from uniapl.data.mixture import Mixture, Stream
from uniapl.distributed.sharding import saved_from
from uniapl.rollout.decoding import Decoded
from uniapl.rollout.vllm_generator import Pending, VllmGenerator
from uniapl.training.batch import Request, draw_request
from uniapl.training.players import Players
from uniapl.types import Demonstration, Rollout


@dataclass(frozen=True, slots=True)
class Sampled:
    """A batch's data and rollouts."""

    request: Request
    rollouts: list[Rollout]
    step: int
    """Updates done when the weights that sampled were taken."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A batch that is being sampled."""

    request: Request
    pending: Pending | None
    """None in a batch without rollouts."""
    step: int
    before: dict[str, Any]
    """The state of the data's streams before the batch was drawn: a resumed run draws it again."""


class Sampler:
    """Draws batches and has them sampled."""

    def __init__(
        self, recipe: Recipe, players: Players, mixture: Mixture, held_out: Stream[Demonstration]
    ) -> None:
        self._recipe, self._players = recipe, players
        self._mixture, self._held_out = mixture, held_out
        self._begun: _Begun | None = None

    def next_batch(self, step: int, weights: TermWeights) -> Sampled:
        """Return a batch for the next steps; with `rollout.ahead`, begin to sample the batch after it.

        Args:
            step: Updates done.
            weights: The terms' weights while the batch serves.
        """
        rollout = self._recipe.config.rollout
        if not rollout.ahead:
            request = self._draw(weights)
            rollouts: list[Rollout] = []
            if request.asked:
                policy = self._players.policy
                with policy.gathered(self._needed_on), policy.autocast():
                    rollouts = self._players.generator.sample(request.prompts, rollout.group_size)
            return Sampled(request, rollouts, step)
        begun = self._begun or self._begin(step, step)
        rollouts = begun.pending.rollouts() if begun.pending else []
        self._begun = None
        after = step + rollout.updates_per_rollout
        if after < self._recipe.config.training.steps:
            self._begun = self._begin(step, after)
        return Sampled(begun.request, rollouts, begun.step)

    def _draw(self, weights: TermWeights) -> Request:
        return draw_request(self._recipe, self._mixture, self._held_out, weights)

    def _begin(self, step: int, serves: int) -> _Begun:
        """Let the policy as it is after `step` updates sample the batch that serves from `serves` on."""
        before = self._streams()
        # which terms act is known before; how strong λ will be is not, and decides nothing here
        request = self._draw(self._recipe.weights_at(serves))
        pending = None
        if request.asked:
            size = self._recipe.config.rollout.group_size
            with self._players.policy.gathered(self._needed_on):
                pending = self._generator.begin(request.prompts, size)
        return _Begun(request, pending, step, before)

    @property
    def _needed_on(self) -> torch.device | None:
        """Where this rank needs the policy whole to sample it: servers get it from the first one's CPU."""
        if self._recipe.config.rollout.engine == "transformers":
            return self._players.policy.device
        return saved_from(self._players.ranks)

    @property
    def _generator(self) -> VllmGenerator:
        generator = self._players.generator
        assert isinstance(generator, VllmGenerator)
        return generator

    def _streams(self) -> dict[str, Any]:
        return {"mixture": self._mixture.state_dict(), "held_out": self._held_out.state_dict()}

    def state_dict(self) -> dict[str, Any]:
        """Return where the data's streams stand; a batch that is being sampled is waited for and saved, too."""
        begun = self._begun
        if begun is None:
            return self._streams()
        completions = begun.pending.completions() if begun.pending else None
        ahead = {
            "step": begun.step,
            "completions": completions and [(c.token_ids, c.logprobs, c.has_ended) for c in completions],
        }  # fmt: skip
        return {**begun.before, "ahead": ahead}

    def load_state_dict(self, state: dict[str, Any], serves: int) -> None:
        """Restore `state_dict`.

        Args:
            state: As saved.
            serves: Updates done then: a batch that was being sampled serves from there on.
        """
        self._mixture.load_state_dict(state["mixture"])
        self._held_out.load_state_dict(state["held_out"])
        ahead, self._begun = state.get("ahead"), None
        if ahead is None:
            return
        before = self._streams()
        request, pending = self._draw(self._recipe.weights_at(serves)), None
        if ahead["completions"] is not None:
            completions = [Decoded(*saved) for saved in ahead["completions"]]
            size = self._recipe.config.rollout.group_size
            pending = self._generator.sampled_before(request.prompts, size, completions)
        self._begun = _Begun(request, pending, ahead["step"], before)
