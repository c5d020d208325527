"""Weights, gradients and optimiser states shared out over the ranks: FSDP2 (`training.sharding: full`).

Each layer is gathered for its own forward and backward, and everything else (embeddings, norm, head, which may share a
weight) with the root. Gradients are summed, not averaged: the counts that they are divided by are those of all ranks.
No number type is changed: the model's own autocast acts as in one process.

Source: `torch.distributed.fsdp.fully_shard`.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils._python_dispatch import _disable_current_modes

from uniapl.distributed.ranks import Ranks
from uniapl.errors import InputError, TrainingError, one_line

Model = TypeVar("Model", bound=nn.Module)
Learning = tuple[Any, torch.optim.Optimizer]
"""A sharded model that learns, and its optimiser."""


@dataclass(frozen=True, slots=True)
class Unloaded:
    """Weights that the first rank has read and no other one has: a model is made without them and then shared out."""

    device: torch.device
    """Where each rank's part goes."""
    weights: dict[str, Tensor] | None
    """By name, on the first rank's CPU; None on the others."""

    def bring(self, root: nn.Module, module: nn.Module, names: dict[int, str]) -> None:
        """Give a module of a model its weights, whole, on every rank; collective.

        Args:
            root: The model, in which other modules may share them.
            module: Inside it.
            names: Id of each of the model's weights on the meta device → its name.
        """
        found: dict[int, nn.Parameter] = {}
        for empty in module.parameters():
            if not empty.is_meta:
                continue
            if self.weights is None:
                full = torch.empty(empty.shape, dtype=empty.dtype, device=self.device)
            else:  # what `shard` gives back must not be the first rank's only copy
                read = self.weights[names[id(empty)]].detach()
                full = read.to(self.device, empty.dtype, copy=True)
            dist.broadcast(full, src=0)
            found[id(empty)] = nn.Parameter(full, requires_grad=empty.requires_grad)
        _exchange(root, found)


def shard(
    root: nn.Module,
    layers: Sequence[nn.Module],
    methods: Iterable[str],
    unloaded: Unloaded | None = None,
    names: dict[int, str] | None = None,
) -> None:
    """Share a model's weights out over all ranks, in place. Copies must be made before.

    Args:
        root: The module whose methods are called; it holds all weights.
        layers: Inside it, each gathered by itself.
        methods: The root's, in which its weights are needed.
        unloaded: Brings the weights where the model has none yet: one layer's at a time is whole.
        names: As `Unloaded.bring` takes them.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    device = unloaded.device if unloaded else next(root.parameters()).device
    with _disable_current_modes():  # a plan shares out what has no numbers, and a mesh has some
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in (*layers, root):
        if unloaded:
            unloaded.bring(root, module, names or {})
        # the root too is given back after a forward: one without backward would else keep weights of before the update
        made = fully_shard(module, mesh=mesh, reshard_after_forward=True)
        made.set_gradient_divide_factor(1.0)
        # else gloo is asked for a scaled sum, which it does not know, and NCCL's is zero in bfloat16
        made.set_force_sum_reduction_for_comms(True)
    for name in methods:
        register_fsdp_forward_method(root, name)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with all its numbers; collective where it is sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[no-any-return]


def saved_from(ranks: Ranks) -> torch.device | None:
    """Return where this rank needs a model whole that is written: on the first one's CPU, and on no other."""
    return torch.device("cpu") if ranks.is_first else None


def own_part(tensor: Tensor) -> Tensor:
    """Return what this rank has of a tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[no-any-return]


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> float:
    """Cut the norm of all gradients together to a limit; return the norm before."""
    return whole(nn.utils.clip_grad_norm_(parameters, limit)).item()


def without_weights(model: Model) -> Model:
    """Return a copy of a model whose weights are on the meta device; what two layers share stays shared.

    Buffers, which nothing changes, are the model's own.
    """
    copied: dict[int, Tensor] = {id(buffer): buffer for buffer in model.buffers()}
    for weight in model.parameters():
        copied[id(weight)] = _frozen(torch.empty_like(weight, device="meta"))
    return copy.deepcopy(model, dict[int, Any](copied))  # which it has made already


@torch.no_grad()
def gather_into(target: nn.Module, source: nn.Module, device: torch.device | None) -> None:
    """Give a copy `without_weights` those of a sharded model, one after the other; collective.

    Args:
        target: Made of the same model before it was sharded. Weights that are on the device keep their place.
        source: Sharded.
        device: Where they go; None on a rank that only sends its part.
    """
    own, found = dict(target.named_parameters()), dict[int, nn.Parameter]()
    for name, parameter in source.named_parameters():
        full = whole(parameter.detach())
        if device is None:
            continue
        if own[name].device == device:
            own[name].copy_(full)
        else:
            found[id(own[name])] = _frozen(full.to(device))
    _exchange(target, found)


def drop_weights(model: nn.Module) -> None:
    """Make a model one `without_weights` again, in place."""
    _exchange(
        model, {id(p): _frozen(torch.empty_like(p, device="meta")) for p in model.parameters()}
    )


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _exchange(model: nn.Module, by_id: dict[int, nn.Parameter]) -> None:
    """Put other weights into the places of those with these ids."""
    for module in model.modules():
        for name, own in module._parameters.items():
            if id(own) in by_id:
                module._parameters[name] = by_id[id(own)]


def first_numbers(parameter: Tensor, count: int) -> Tensor:
    """Return those of a tensor's first numbers that are on this rank."""
    own = own_part(parameter).detach()
    if not hasattr(parameter, "to_local"):
        return own.flatten()[:count]
    rows, size = parameter.shape[0], dist.get_world_size()
    before = min(rows, -(-rows // size) * dist.get_rank()) * (parameter.numel() // rows)
    return own.flatten()[: max(0, count - before)]


def save_shards(folder: Path, learning: dict[str, Learning]) -> None:
    """Write each rank's part of models and optimisers into a folder that all ranks see; collective.

    Raises:
        TrainingError: One of them could not write.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        save(_states(learning), checkpoint_id=str(folder))
    except CheckpointException as error:
        rank, (failure, _) = next(iter(error.failures.items()))
        raise TrainingError(f"rank {rank} cannot write {folder}: {one_line(failure)}") from error


def load_shards(folder: Path, learning: dict[str, Learning]) -> None:
    """Take over what `save_shards` wrote, on however many ranks; collective.

    Raises:
        InputError: It is damaged, or another model's.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict import set_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load

    states = _states(learning)
    try:
        load(states, checkpoint_id=str(folder))
    except CheckpointException as error:
        rank, (failure, _) = next(iter(error.failures.items()))
        raise InputError(f"rank {rank} cannot read {folder}: {one_line(failure)}") from error
    for name, (model, optimizer) in learning.items():
        own = states[name]
        set_state_dict(
            model, optimizer, model_state_dict=own["model"], optim_state_dict=own["optimizer"]
        )


def _states(learning: dict[str, Learning]) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    found: dict[str, Any] = {}
    for name, (model, optimizer) in learning.items():
        weights, moments = get_state_dict(model, optimizer)
        found[name] = {"model": weights, "optimizer": moments}
    return found
