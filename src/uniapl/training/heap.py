"""Freed memory that stays with the process, so that every step finds it again."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Of glibc's mallopt(3)."""
NEVER = -1

DEFAULTS = {M_TRIM_THRESHOLD: 2**26, M_MMAP_THRESHOLD: 2**25, M_MMAP_MAX: 2**16}
"""What glibc ends at by itself where blocks of all sizes come and go."""


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let the heap of glibc keep what is freed inside, and give it back at the end.

    By default it gives large blocks and the heap's end back to the system, and the next step pays for mapping
    and zeroing them page by page: gigabytes in every step. Where there is no glibc nothing changes.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "malloc_trim"):  # musl has neither
        yield
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        for parameter, value in DEFAULTS.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(ctypes.c_size_t(0))
