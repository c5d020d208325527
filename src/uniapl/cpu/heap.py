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

LARGEST_IN_HEAP, LARGEST_FREE_END, MOST_MAPPED = 2**25, 2**26, 2**16
"""Bytes, bytes and blocks: what glibc ends at by itself where blocks of all sizes come and go."""
SMALLEST_MAPPED = 2**20
"""Bytes, where memory counts more than time."""

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

    Elsewhere, and where the user has set the heap, nothing changes. Afterwards the settings are those that glibc ends
    at by itself, but fixed. Not to be nested.

    By default it gives its end, and every block of more than 32 MiB, back to the system when that is free, and the
    next step pays for mapping and zeroing it page by page: gigabytes in every step. And smaller blocks that are freed
    between others stay with the process as holes that fit nothing.

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
