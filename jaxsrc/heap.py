"""How the C library keeps memory that is freed; set before JAX starts its threads."""

from __future__ import annotations

import ctypes

ARENA_MAX, MMAP_MAX, TRIM_THRESHOLD = -8, -4, -1  # of malloc.h


def keep_freed() -> bool:
    """Have glibc keep the pages that are freed, and say whether it will.

    XLA's CPU backend frees a step's scratch at its end. Blocks of that size go back to the kernel, which then clears every
    page anew at the next step: a third of the time of a small transformer's step. One arena, since the others give large
    blocks back all the same; threads that have an arena of their own already keep it, so this comes first in a process.
    """
    try:
        library = ctypes.CDLL(None)
        return all([library.mallopt(ARENA_MAX, 1), library.mallopt(MMAP_MAX, 0), library.mallopt(TRIM_THRESHOLD, 2**31 - 1)])
    except (OSError, AttributeError, TypeError):  # another C library
        return False
