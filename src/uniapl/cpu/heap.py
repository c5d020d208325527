"""What glibc does with memory that is freed: keep it for the next step, or give it back."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from uniapl.cpu import is_on

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Of mallopt(3). Setting any of them ends glibc's own adjusting."""
NEVER = -1
"""Of M_TRIM_THRESHOLD: the end of the heap is never given back."""

LARGEST_IN_HEAP, LARGEST_FREE_END, MOST_MAPPED = 2**25, 2**26, 2**16
"""In bytes, bytes and blocks: the settings at which glibc arrives by itself where blocks of all sizes come and go."""
SMALLEST_MAPPED = 2**20
"""Bytes of the smallest block that is mapped by itself, where memory counts more than time."""

OWN_SETTINGS = (
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "GLIBC_TUNABLES",
)
"""Variables by which a user sets the heap; it is then left alone."""


@contextmanager
def tuned_heap(*, for_speed: bool) -> Iterator[None]:
    """Set the heap of glibc while a run lasts, and give back what it has kept.

    By default glibc gives the end of its heap, and every block of more than 32 MiB, back to the system as soon as it is
    free. The next step then pays for mapping and zeroing it page by page: gigabytes in every step. Smaller blocks that
    are freed between others stay with the process, as holes that fit nothing.

    Without glibc, or where the user has set the heap, nothing changes. Afterwards the settings are those at which glibc
    arrives by itself, but fixed. This context must not be entered inside itself.

    Args:
        for_speed: Keep what is freed (but for blocks of 64 MiB and more in threads other than the main one). Otherwise
            map every block of 1 MiB and more by itself, so that it is given back when it is freed.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    is_set = not is_on("heap") or any(name in os.environ for name in OWN_SETTINGS)
    if is_set or libc is None or not hasattr(libc, "malloc_trim"):  # musl has none
        yield
        return

    def set_heap(mapped: int, free_end: int, most_mapped: int = MOST_MAPPED) -> None:
        """Set from how many bytes a block is mapped, how much free end is kept, and how many blocks may be mapped."""
        libc.mallopt(M_MMAP_THRESHOLD, mapped)
        libc.mallopt(M_TRIM_THRESHOLD, free_end)
        libc.mallopt(M_MMAP_MAX, most_mapped)
        libc.malloc_trim(ctypes.c_size_t(0))  # also what was freed between blocks so far

    if for_speed:
        set_heap(LARGEST_IN_HEAP, NEVER, most_mapped=0)
    else:
        set_heap(SMALLEST_MAPPED, LARGEST_FREE_END)
    try:
        yield
    finally:
        set_heap(LARGEST_IN_HEAP, LARGEST_FREE_END)
