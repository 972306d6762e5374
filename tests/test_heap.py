"""Freed memory stays with the process: the second round of a large block costs no page faults."""

import platform
import subprocess
import sys

import pytest

ROUNDS = """
import resource, sys
from jaxsrc import heap
kept = heap.keep_freed() if sys.argv[1] == "keep" else None
faults = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b'x' * 2**26  # 64 MiB, 16384 pages of the usual size
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, *faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps memory by these settings")
def test_a_freed_block_is_used_again_without_page_faults():
    python = [sys.executable, "-c", ROUNDS]
    run = lambda how: subprocess.run([*python, how], capture_output=True, text=True, check=True).stdout.split()
    kept, first, *later = run("keep")
    assert kept == "True" and int(first) > 100 and max(map(int, later)) < 20
    assert min(map(int, run("leave")[1:])) > 100  # without it every round has the pages cleared anew
