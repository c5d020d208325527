"""Ranks: the processes of a run, numbered from 0, each with a device of its own.

Every rank holds the same data, draws and counts, and runs the same control flow. Only what costs time is dealt: packed
micro-batches, decoding and reward calls. So every count of a step is known everywhere without asking, and a step needs
one sum of gradients. A process alone does nothing of all this: the same bits as without.

torch is imported where it is used: rewards know ranks, and answers are checked without it.
"""

import pickle
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from uniapl.errors import InputError, TrainingError, one_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from uniapl.distributed.endings import Endings

T = TypeVar("T")
R = TypeVar("R")

BUCKET_NUMBERS = 2**24
"""So many numbers of small tensors are summed in one message: 64 MiB in float32."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among all of a run.

    Every method but `deal` and `blank` is collective: all ranks call it, in the same order.

    Example:
        for packed, is_own in ranks.deal(pack(sequences, limit)):
            ...  # forward and backward
        ranks.sum_gradients(model.trainable_parameters(), "the policy's gradients")
    """

    rank: int = 0
    size: int = 1
    in_lockstep: bool = False
    """Whether weights are shared out (`training.sharding: full`): then no forward runs on one rank alone."""
    endings: "Endings | None" = None
    """How the ranks hear of each other's failures; None for a process alone."""

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0

    def deal(self, items: Sequence[T]) -> list[tuple[T, bool]]:
        """Return this rank's items, each with True.

        In lockstep every rank gets equally many: an item with False fills up. It takes part in forward and backward,
        and counts nothing.
        """
        own = [(item, True) for item in items[self.rank :: self.size]]
        if self.in_lockstep and items:
            own += [(items[0], False)] * (-(-len(items) // self.size) - len(own))
        return own

    def blank(self, num: int, device: "torch.device") -> "Tensor":
        """Return a tensor [num] of which each rank fills other places before `sum_`; alone, NaN marks what is empty."""
        import torch

        return torch.full((num,), torch.nan if self.size == 1 else 0.0, device=device)

    def sum_(self, tensors: "Iterable[Tensor]", what: str) -> None:
        """Replace tensors by their sums over the ranks, in place.

        Args:
            tensors: Of the same shapes on every rank.
            what: Names the sum in an error.

        Raises:
            TrainingError: Another rank has ended, or does not answer.
        """
        if self.size == 1:
            return
        import torch
        from torch import distributed as dist

        with self._named(what):
            for bucket in buckets(tensors):
                flat = torch.cat([t.reshape(-1) for t in bucket])
                dist.all_reduce(flat)
                for t, total in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                    t.copy_(total.view_as(t))

    def sum_gradients(self, parameters: "Sequence[nn.Parameter]", what: str) -> None:
        """Replace gradients by their sums over the ranks; one that some ranks lack counts as 0 there.

        In lockstep the backward pass has summed them already.
        """
        if self.size == 1 or self.in_lockstep:
            return
        import torch

        has_any = torch.tensor([int(p.grad is not None) for p in parameters])
        self.sum_([has_any], what)
        learning = [p for p, count in zip(parameters, has_any.tolist(), strict=True) if count]
        for parameter in learning:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.sum_([p.grad for p in learning if p.grad is not None], what)

    def sums(self, values: Mapping[str, float], what: str) -> dict[str, float]:
        """Return the sums of numbers by name, added in the ranks' order; a rank may lack some."""
        found: dict[str, float] = {}
        for part in self.share(lambda: dict(values), what):
            for name, value in part.items():
                found[name] = found[name] + value if name in found else value
        return found

    def largest(self, value: T, what: str) -> T:
        """Return the largest of the ranks' values."""
        return value if self.size == 1 else max(self.share(lambda: value, what))  # type: ignore[type-var]

    def any(self, flag: bool, what: str) -> bool:
        """Return whether the flag is set on any rank."""
        return self.largest(flag, what)

    def spread(
        self, items: Sequence[T], work: Callable[[list[T]], Sequence[R]], what: str
    ) -> list[R]:
        """Let every rank work on its items; return the results for all items, in their order.

        Args:
            items: The same on every rank.
            work: Returns one result per item; results travel between processes.
            what: As in `sum_`.

        Raises:
            Exception: What `work` has raised here, or on another rank; the same on all of them.
        """
        own = list(items[self.rank :: self.size])
        parts = self.share(lambda: list(work(own)), what)
        return [parts[i % self.size][i // self.size] for i in range(len(items))]

    def on_first(self, make: Callable[[], T], what: str) -> T:
        """Let the first rank do something alone; return its result on all, or raise its error on all."""
        if self.size == 1:
            return make()
        result = self.share(lambda: make() if self.is_first else None, what)[0]
        return result  # type: ignore[return-value]

    def hosts(self) -> list[str]:
        """Return a line that says which ranks are where; none for a process alone."""
        if self.size == 1:
            return []
        found: dict[str, list[str]] = {}
        for rank, host in enumerate(self.share(socket.gethostname, "who is where")):
            found.setdefault(host, []).append(str(rank))
        places = "; ".join(f"{host}: {', '.join(own)}" for host, own in found.items())
        return [f"{self.size} ranks on {len(found)} hosts ({places})"]

    def share(self, make: Callable[[], T], what: str) -> list[T]:
        """Let every rank make something; return what each has made, in the ranks' order.

        Args:
            make: Its result travels between processes.
            what: As in `sum_`.

        Raises:
            Exception: What `make` has raised on one of the ranks. There it is the error itself, on the others one of
                the same kind and words.
        """
        if self.size == 1:
            return [make()]
        from torch import distributed as dist

        error: Exception | None = None
        try:
            sent = (pickle.dumps(make()), None)
        except (
            Exception
        ) as raised:  # whatever a user's function comes up with; all ranks must hear of it
            error, sent = raised, (b"", _described(raised, self.rank))
        parts: list[tuple[bytes, tuple[bool, str] | None]] = [sent] * self.size
        with self._named(what):
            dist.all_gather_object(parts, sent)
        for rank, (_, described) in enumerate(parts):
            if described is None:
                continue
            if error is not None and rank == self.rank:
                raise error
            raise _elsewhere(*described)
        return [pickle.loads(made) for made, _ in parts]  # of processes of this very run

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """Say in one line what the ranks were doing together when one of them was missing."""
        try:
            yield
        except RuntimeError as error:  # torch's for a peer that is gone or silent
            if self.endings is None:
                raise
            raise self.endings.explain(what, error) from error


ALONE = Ranks()
"""A process that trains by itself."""


def buckets(tensors: "Iterable[Tensor]") -> "Iterator[list[Tensor]]":
    """Group tensors of one number type, a message's worth each, in their order."""
    bucket: list[Any] = []
    for tensor in tensors:
        is_full = sum(t.numel() for t in bucket) + tensor.numel() > BUCKET_NUMBERS
        if bucket and (is_full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _described(error: Exception, rank: int) -> tuple[bool, str]:
    """Return whether an error is the user's input, and its line."""
    if isinstance(error, InputError | TrainingError | OSError):
        return isinstance(error, InputError), str(error)
    return False, f"rank {rank} raised {type(error).__name__}: {one_line(error)}"


def _elsewhere(is_input: bool, line: str) -> InputError | TrainingError:
    error = InputError(line) if is_input else TrainingError(line)
    error.is_said_elsewhere = True
    return error
