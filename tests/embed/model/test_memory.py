"""What is freed is used again, instead of being handed back and faulted in anew."""

import ctypes
import subprocess
import sys

import pytest

COUNT = """
import resource
import torch
from curate.embed.model.memory import keep_freed_blocks
if {kept}:
    keep_freed_blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(60):
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_large_blocks_are_not_faulted_in_again():
    faults = [
        int(subprocess.run([sys.executable, "-c", COUNT.format(kept=kept)], check=True, capture_output=True).stdout)
        for kept in (False, True)
    ]
    # Not none: the heap grows until it has a hole that every block fits into.
    assert faults[1] < faults[0] / 2
