"""Freed memory that stays with the process, so that every step finds it again."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's mallopt(3)."""
NEVER = -1

LARGEST_MAPPED, LARGEST_TRIMMED = 2**25, 2**26
"""Bytes: what glibc ends at by itself where blocks of all sizes come and go."""


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let the heap of glibc keep what is freed inside, and give it back at the end.

    By default it gives the heap's end back to the system whenever it is free, and the next step pays for mapping
    and zeroing it page by page: gigabytes in every step. Blocks of 32 MiB and more still go back at once: kept as
    well they tear holes that cost more memory than their time is worth. Where there is no glibc nothing changes.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "malloc_trim"):  # musl has neither
        yield
        return
    # either one ends glibc's own adjusting of both
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST_MAPPED)
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST_TRIMMED)
        libc.malloc_trim(ctypes.c_size_t(0))
