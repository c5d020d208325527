"""From a launcher to ranks: torchrun, `accelerate launch` and `srun` start the processes, here they meet.

torchrun and accelerate set RANK, WORLD_SIZE, LOCAL_RANK and where to meet. Slurm's `srun` sets its own variables, from
which the same is derived.
"""

import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist

from uniapl.distributed.endings import TIMEOUT_SECONDS, TIMEOUT_VARIABLE, Endings
from uniapl.distributed.ranks import ALONE, Ranks
from uniapl.errors import InputError, TrainingError, one_line

FIRST_PORT, NUM_PORTS = 20000, 20000
"""Where the ranks of a Slurm job meet: a port by the job's number."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which process of a launch this one is."""

    rank: int
    size: int
    local_rank: int
    """Among those of this host."""
    meets_at: tuple[str, int] | None = None
    """Host and port of the first rank, where the launcher does not say them."""
    is_launched: bool = True


def place_of(variables: Mapping[str, str]) -> Place:
    """Read which process this is from the environment; a process without a launcher is the only one.

    Raises:
        InputError: A launcher's variables are incomplete or are no numbers.
    """
    if "WORLD_SIZE" in variables or "RANK" in variables:
        rank, size = _numbers(variables, "RANK", "WORLD_SIZE")
        local_rank = int(variables.get("LOCAL_RANK", rank))
        if size > 1 and not {"MASTER_ADDR", "MASTER_PORT"} <= variables.keys():
            raise InputError(
                "WORLD_SIZE is set, but not MASTER_ADDR and MASTER_PORT: start with torchrun, or unset it"
            )
        return Place(rank, size, local_rank)
    # srun alone sets the step's number of tasks; a plain process in a batch script has the job's, and is one
    if int(variables.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        rank, size = _numbers(variables, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
        nodes = variables.get("SLURM_STEP_NODELIST", variables.get("SLURM_JOB_NODELIST", ""))
        port = FIRST_PORT + int(variables.get("SLURM_JOB_ID", 0)) % NUM_PORTS
        return Place(
            rank,
            size,
            int(variables.get("SLURM_LOCALID", rank)),
            (
                variables.get("MASTER_ADDR") or first_host(nodes),
                int(variables.get("MASTER_PORT", port)),
            ),
        )
    return Place(0, 1, 0, is_launched=False)


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm list such as `gpu[003-007,9],other`."""
    found = re.match(r"([^\[,]+)(?:\[(\w+))?", nodes)
    return found.group(1) + (found.group(2) or "") if found else "127.0.0.1"


def _numbers(variables: Mapping[str, str], rank: str, size: str) -> tuple[int, int]:
    try:
        return int(variables[rank]), int(variables[size])
    except (KeyError, ValueError):
        raise InputError(
            f"{rank} and {size} must both be set to numbers; start several processes with torchrun"
        ) from None


@contextmanager
def started(*, shards: bool = False) -> Iterator[Ranks]:
    """Meet the other processes of this launch, if there are any; part from them at the end.

    Args:
        shards: Weights will be shared out, which needs a launcher even for one process.

    Raises:
        InputError: There is no device for this process, or the others do not come.
    """
    place = place_of(os.environ)
    if shards and not (place.is_launched or dist.is_initialized()):
        raise InputError(
            "training.sharding: full shares weights out over several processes; start with "
            "torchrun --nproc-per-node N -m uniapl train …, or leave it out"
        )
    if place.size == 1 and not shards and not dist.is_initialized():
        yield ALONE
        return
    is_ours = not dist.is_initialized()
    timeout = _timeout_seconds()
    if is_ours:
        _meet(place, timeout)
    ranks = replace(_ranks(timeout), in_lockstep=shards)
    assert ranks.endings is not None
    try:
        yield ranks
    except torch.OutOfMemoryError as error:
        line = (
            f"rank {ranks.rank} on {socket.gethostname()} is out of memory: {one_line(error, 200)}"
        )
        failure = TrainingError(line)
        ranks.endings.failed(failure)
        raise failure from error
    except BaseException as error:
        ranks.endings.failed(error)
        raise
    ranks.endings.over()
    if is_ours:
        dist.destroy_process_group()


def _meet(place: Place, timeout_seconds: float) -> None:
    if place.meets_at:
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = map(str, place.meets_at)
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        torch.cuda.set_device(_device_index(place, torch.cuda.device_count()))
    options: dict[str, Any] = {"rank": place.rank, "world_size": place.size}
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if has_cuda else "gloo",
            timeout=timedelta(seconds=timeout_seconds),
            **options,
        )
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise InputError(
            f"rank {place.rank} of {place.size} did not meet the others at {where}: {one_line(error)}"
        ) from error


def _device_index(place: Place, count: int) -> int:
    """Return the CUDA device of this process: the one of its number on this host, or the only one it sees."""
    if place.local_rank < count:
        return place.local_rank
    if count == 1 and place.meets_at:  # srun shows each task its own
        return 0
    raise InputError(
        f"this host has {count} CUDA devices, and rank {place.rank} is its process number {place.local_rank + 1}; "
        f"start at most {count} processes per host, or hide the devices (CUDA_VISIBLE_DEVICES=) to train on the CPU"
    )


def _ranks(timeout_seconds: float) -> Ranks:
    """Return this process's view; a name for the run comes from the first rank."""
    rank, size = dist.get_rank(), dist.get_world_size()
    names = [uuid.uuid4().hex]
    if size > 1:
        dist.broadcast_object_list(names, src=0)
    return Ranks(rank, size, endings=Endings(rank, names[0], timeout_seconds))


def _timeout_seconds() -> float:
    given = os.environ.get(TIMEOUT_VARIABLE)
    try:
        seconds = TIMEOUT_SECONDS if given is None else float(given)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise InputError(f"{TIMEOUT_VARIABLE}: must be a number of seconds above 0, got {given!r}")
    return seconds
