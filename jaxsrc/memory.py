"""How much memory is free, and the warning where a program will not fit."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from jaxsrc.runtime import Runtime


def free_memory(runtime: Runtime) -> int | None:
    """Bytes free on the first local device, or of the machine on a CPU; None if unknown."""
    local = next(d for d in runtime.devices if d.process_index == jax.process_index())
    stats = local.memory_stats() if runtime.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats["bytes_in_use"])
    try:  # what the kernel could give, the page cache included; not the same as what lies idle
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def memory_warning(needed: int, runtime: Runtime) -> str | None:
    """One line with the fix where a step needs more bytes than are free; None where it fits."""
    free = free_memory(runtime)
    if free is None or needed <= free:
        return None
    return (
        f"warning: expected to fit in {free / 2**30:.1f} GiB of free memory, the step needs about "
        f"{needed / 2**30:.1f} GiB; lower the batch size (and raise optim.accumulate) or the model's width"
    )
