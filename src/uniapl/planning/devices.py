"""Several devices in a plan: how many, what joins them, and what a step sends between them.

The model of communication is simple on purpose. Messages go round in a ring, so that of N devices each sends and
receives (N - 1)/N of what is gathered or summed up and kept in parts, and twice that of what all of them sum. Every
byte takes its time: nothing overlaps with computing, and a message costs nothing to begin.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import distributed as dist

from uniapl.distributed import Ranks
from uniapl.errors import InputError
from uniapl.planning.largest_step import Pass

GB = 10**9
GIB = 2**30
BANDWIDTH = 25.0
"""GB/s in and out of a device unless told otherwise: PCIe 4.0 x16, or a network of 200 Gbit/s; NVLink has hundreds."""
FOLDER_BANDWIDTH = 1.0
"""GB/s of the folder through which servers get weights, unless told otherwise."""
LEARNING, FORWARD = 3, 1
"""How often a micro-batch moves shared-out weights: gathered for the forward and again for the backward pass, whose
gradients are summed and kept in parts."""


@dataclass(frozen=True, slots=True)
class Devices:
    """What a run is planned for."""

    kind: str
    """`cpu` or `cuda`."""
    memory: int
    """Of one device, bytes; the processes of a CPU share it."""
    count: int = 1
    bandwidth: float = BANDWIDTH
    """Between devices, GB/s in and out of each."""
    folder_bandwidth: float = FOLDER_BANDWIDTH

    def __post_init__(self) -> None:
        """Refuse what is none.

        Raises:
            InputError: A number is not above 0.
        """
        if self.count < 1:
            raise InputError(f"--devices: must be at least 1, got {self.count}")
        given = {
            "--memory": self.memory,
            "--bandwidth": self.bandwidth,
            "--folder-bandwidth": self.folder_bandwidth,
        }
        for name, value in given.items():
            if not value > 0:
                raise InputError(f"{name}: must be above 0, got {value:g}")

    def ranks(self, is_sharded: bool) -> list[Ranks]:
        """Return what deals the work."""
        return [Ranks(rank, self.count, is_sharded) for rank in range(self.count)]


@dataclass(frozen=True, slots=True)
class Communication:
    """What moves in a step."""

    sent: dict[str, int] = field(default_factory=dict)
    """Bytes in and out of each device, by what for."""
    folder: int = 0
    """Bytes of the weights that servers get before every batch, as a folder; 0 without servers."""

    @property
    def total(self) -> int:
        """Bytes in and out of each device."""
        return sum(self.sent.values())

    def seconds(self, devices: Devices) -> float:
        """Return how long a step waits for other devices."""
        return self.total / (devices.bandwidth * GB)

    def folder_seconds(self, devices: Devices) -> float:
        """Return how long a batch waits until servers have the weights: written whole, then read by all at once."""
        return 2 * self.folder / (devices.folder_bandwidth * GB)


def sharded_traffic(
    passes: Sequence[Pass], weights: Mapping[str, int], devices: Devices, samplings: float
) -> dict[str, int]:
    """Return what a step sends where weights are shared out.

    Args:
        passes: Of a step; each round of micro-batches gathers the model anew.
        weights: Role → bytes of the whole model that plays it; one that every device has whole is left out.
        devices: What they are dealt to.
        samplings: How often a step gathers the whole policy, to sample from it or to write it for servers.
    """
    share = (devices.count - 1) / devices.count
    first = devices.ranks(is_sharded=True)[0]
    sent: dict[str, int] = {}
    for one in passes:
        rounds = len(first.deal(one.micro_batches))
        times = rounds * (LEARNING if one.learns else FORWARD)
        size = weights.get(one.role, 0)
        if size and share:
            sent[one.role] = sent.get(one.role, 0) + int(times * share * size)
    if samplings and share:
        sent["sampling"] = int(samplings * share * weights["policy"])
    return sent


def summed_traffic(trained: Mapping[str, int], devices: Devices) -> dict[str, int]:
    """Return what a step sends where every device holds whole models: gradients, summed over all.

    Args:
        trained: Role → bytes of its gradients.
        devices: Among them.
    """
    share = 2 * (devices.count - 1) / devices.count
    return {role: int(share * size) for role, size in trained.items() if size and share}


@contextmanager
def pretended(devices: Devices) -> Iterator[None]:
    """Within, this process is the first of as many as there are devices; what it sends goes nowhere."""
    # registers the backend; torch's own tools measure FSDP2's memory with it
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=devices.count)
    try:
        yield
    finally:
        dist.destroy_process_group()
