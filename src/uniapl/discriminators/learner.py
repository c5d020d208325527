"""The weights of a discriminator that learns: their optimiser, their update, their state."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import nn

from uniapl.config.recipe import Recipe
from uniapl.distributed import ALONE, Ranks
from uniapl.distributed.sharding import clip_gradients
from uniapl.errors import InputError, TrainingError
from uniapl.models.adamw import adamw
from uniapl.models.language_model import LanguageModel
from uniapl.models.scalar_model import ScalarModel


class Trainable(Protocol):
    """A model whose weights have names; some of them learn."""

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the weights that learn."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield all weights with their names."""
        ...


class Learner:
    """AdamW on the weights of a discriminator's model that learn."""

    def __init__(
        self,
        model: Trainable,
        recipe: Recipe,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model = model
        self.ranks = ranks
        if ranks.in_lockstep:
            assert isinstance(model, LanguageModel | ScalarModel)  # the config refuses the others
            model.shard()
        self.parameters: list[nn.Parameter] = model.trainable_parameters()
        self.max_grad_norm = recipe.config.optimizer.max_grad_norm
        self.optimizer = adamw(self.parameters, recipe.config.optimizer.weight_decay)

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.parameters[0].device

    def update(self, learning_rate: float) -> dict[str, float]:
        """Take one step with the gradients in the weights, summed over the ranks; return their norm before clipping.

        Raises:
            TrainingError: The gradient is not finite; the weights are unchanged.
        """
        self.ranks.sum_gradients(self.parameters, "the discriminator's gradients")
        norm = clip_gradients(self.parameters, self.max_grad_norm)
        if not torch.isfinite(torch.tensor(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise TrainingError(
                f"discriminator: gradient norm is {norm}; lower discriminator.learning_rate"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"optimizer/discriminator_grad_norm": norm}

    def state_dict(self) -> dict[str, Any]:
        """Return weights and optimiser; nothing where they are shared out, and `save_shards` writes them."""
        if self.ranks.in_lockstep:
            return {}
        return {
            "model": {name: p.detach() for name, p in self._named_parameters().items()},
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            InputError: It holds other weights.
        """
        if self.ranks.in_lockstep:
            return
        own = self._named_parameters()
        if own.keys() != state["model"].keys():
            raise InputError("the checkpoint's discriminator has other weights than this run's")
        for name, parameter in own.items():
            parameter.data.copy_(state["model"][name])
        if state["optimizer"] is not None:  # of a run that has finished it may be gone
            self.optimizer.load_state_dict(state["optimizer"])

    def _named_parameters(self) -> dict[str, nn.Parameter]:
        """Return the weights that learn, by name; the frozen weights of a shared backbone are not saved."""
        learning = set(map(id, self.parameters))
        return {n: p for n, p in self.model.named_parameters() if id(p) in learning}
