"""Weights, gradients and optimiser states shared out over the ranks: FSDP2 (`training.sharding: full`).

Each layer is gathered for its own forward and backward, and everything else (embeddings, norm, head, which may share a
weight) with the root. Gradients are summed, not averaged: the counts that they are divided by are those of all ranks.
No number type is changed: the model's own autocast acts as in one process.

Source: `torch.distributed.fsdp.fully_shard`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from uniapl.errors import InputError, TrainingError, one_line

Learning = tuple[Any, torch.optim.Optimizer]
"""A sharded model that learns, and its optimiser."""


def shard(root: nn.Module, layers: Sequence[nn.Module], methods: Iterable[str]) -> None:
    """Share a model's weights out over all ranks, in place. Copies must be made before.

    Args:
        root: The module whose methods are called; it holds all weights.
        layers: Inside it, each gathered by itself.
        methods: The root's, in which its weights are needed.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    device = next(root.parameters()).device
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in (*layers, root):
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


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> float:
    """Cut the norm of all gradients together to a limit; return the norm before."""
    return whole(nn.utils.clip_grad_norm_(parameters, limit)).item()


@torch.no_grad()
def gather_into(target: nn.Module | None, source: nn.Module) -> None:
    """Copy a sharded model's weights into a whole one of the same architecture, one after the other; collective.

    Args:
        target: On any device; None on a rank that only sends its part.
        source: Sharded.
    """
    own = dict(target.named_parameters()) if target is not None else {}
    for name, parameter in source.named_parameters():
        full = whole(parameter.detach())
        if own:
            own[name].copy_(full)


def first_numbers(parameter: Tensor, count: int) -> Tensor:
    """Return those of a tensor's first numbers that are on this rank."""
    if not hasattr(parameter, "to_local"):
        return parameter.detach().flatten()[:count]
    rows, size = parameter.shape[0], dist.get_world_size()
    before = min(rows, -(-rows // size) * dist.get_rank()) * (parameter.numel() // rows)
    own: Tensor = parameter.to_local().detach()  # type: ignore[attr-defined]
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
