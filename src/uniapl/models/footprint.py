"""How much memory a piece of code needs, found by running it on tensors that have a shape but no numbers.

Nothing is estimated by formula: whatever the architecture, adapters and recomputation do to memory, the code that
trains does it here too, in seconds and without weights.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_iter

from uniapl.distributed.sharding import own_part
from uniapl.models.packing import AttentionBlock, Packed


class Footprint(TorchDispatchMode):
    """Counts the bytes of all tensors that operations made and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode()
        self.now = 0
        self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count the memory that is new after it."""
        output = func(*args, **(kwargs or {}))
        for value in tree_iter(output):
            # what is sharded is wrapped around the tensor that has the memory
            is_outer = is_traceable_wrapper_subclass(value)
            if isinstance(value, Tensor) and not is_outer and not value.is_meta:
                self._count(value.untyped_storage())
        self.peak = max(self.peak, self.now)
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def gone(_: object) -> None:
            self.now -= self._sizes.pop(key)
            del self._alive[key]

        self.now += size
        self._sizes[key] = size
        self._alive[key] = weakref.ref(storage, gone)

    def resized(self, storage: torch.UntypedStorage) -> None:
        """Notice that a tensor's memory is given back or taken anew, as FSDP2 does with gathered weights."""
        key = storage._cdata
        if key in self._alive:
            self.now += storage.nbytes() - self._sizes[key]
            self._sizes[key] = storage.nbytes()
            self.peak = max(self.peak, self.now)

    def peak_of(self, run: Any, *arguments: Any) -> int:
        """Return how many bytes more than now are alive at the worst moment of `run(*arguments)`."""
        start = self.peak = self.now
        run(*arguments)
        return self.peak - start

    def packed(self, packed: Packed) -> Packed:
        """Return a micro-batch of the same shape."""
        of = self.fake.from_tensor
        blocks = tuple(
            AttentionBlock(*(of(getattr(block, name)) for name in block.__slots__))
            for block in packed.blocks
        )
        names = [name for name in packed.__slots__ if name != "blocks"]
        return replace(packed, blocks=blocks, **{n: of(getattr(packed, n)) for n in names})

    def place(self, *models: nn.Module) -> None:
        """Give weights of the meta device a place in the memory that is counted; what is shared stays so.

        Args:
            models: Changed in place; one weight of several models gets one place.
        """
        # old and new: an old one that is kept cannot leave its id to another
        placed: dict[int, tuple[Tensor, Tensor]] = {}
        for module in (module for model in models for module in model.modules()):
            for tensors in (module._parameters, module._buffers):
                for name, old in tensors.items():
                    if old is None or not old.is_meta:
                        continue
                    if id(old) not in placed:
                        new: Tensor = torch.empty(old.shape, dtype=old.dtype, device="cpu")
                        if isinstance(old, nn.Parameter):
                            new = nn.Parameter(new, requires_grad=old.requires_grad)
                        placed[id(old)] = (old, new)
                    tensors[name] = placed[id(old)][1]  # type: ignore[assignment]


@contextmanager
def counted() -> Iterator[Footprint]:
    """Within, tensors hold no numbers, and what memory they would need is counted."""
    footprint, resize = Footprint(), torch.UntypedStorage.resize_

    def resize_(storage: torch.UntypedStorage, size: int) -> None:
        resize(storage, size)
        footprint.resized(storage)

    torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign, assignment]
    try:
        with footprint.fake, footprint:
            yield footprint
    finally:
        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]


def num_bytes(parameters: Sequence[Tensor], *, whole: bool = False) -> int:
    """Return the bytes of distinct weights: of this rank's part of them, or of all."""
    distinct = {id(p): p for p in parameters}.values()
    return sum((p if whole else own_part(p)).numel() * p.element_size() for p in distinct)


def packed_bytes(micro_batches: list[Packed]) -> int:
    """Return the bytes of attention masks and indices of micro-batches that exist at once."""
    tensors = [getattr(p, n) for p in micro_batches for n in p.__slots__ if n != "blocks"]
    tensors += [getattr(b, n) for p in micro_batches for b in p.blocks for n in b.__slots__]
    return sum(tensor.nbytes for tensor in tensors)
