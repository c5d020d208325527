"""Gradient checkpointing: a layer keeps its input for the backward pass, which then runs the layer again."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from uniapl.errors import InputError


def recomputable_layers(
    model: nn.Module, key: str = "training.gradient_checkpointing"
) -> list[nn.Module]:
    """Return the model's decoder layers: those of which transformers says that they can be run again.

    Args:
        model: A transformers model.
        key: What the user has asked for, for messages.

    Raises:
        InputError: It says of none that it can be run again.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(f"{key}: {type(model).__name__} has no layers that can be recomputed")
    return list(layers)


@contextmanager
def recomputed(
    layers: list[nn.Module], again: Callable[[], AbstractContextManager[object]]
) -> Iterator[None]:
    """Within, a forward of the layers keeps only their inputs; the backward pass reruns them inside `again()`.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174; torch's `checkpoint`.

    Args:
        layers: Whose `forward` is replaced until the end.
        again: Makes the context of each rerun, such as the adapter that acted in the forward.

    transformers' own switch acts in training mode only, which turns dropout on: a ratio of two forwards
    would not be 1 where the weights are equal.
    """
    for layer in layers:
        layer.forward = partial(
            checkpoint,
            layer.forward,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), _Again(again)),
        )
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own again


class _Again:
    """A context that can be entered as often as backward passes ask for it: one graph may have several."""

    def __init__(self, make: Callable[[], AbstractContextManager[object]]) -> None:
        self._make = make

    def __enter__(self) -> None:
        self._entered = self._make()
        self._entered.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._entered.__exit__(*error)
