"""Sets glibc's allocator to reuse the large memory blocks of forward passes on a CPU."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of <malloc.h>."""

_LARGEST = 1 << 30
_LARGEST_OF_OLD = 32 << 20
"""The largest value that glibc before 2.35 accepts."""


def keep_freed_blocks() -> None:
    """Has this process keep freed blocks of up to 1 GB for reuse, instead of returning them to the system.

    A layer's activations take tens of megabytes. By default, glibc maps each such block separately and unmaps it with
    the tensor, so that all of its pages are faulted in and zeroed again for the next layer. Reusing blocks gives a
    quarter more images per second, measured with ViT-B-32 at batches of 64 (benchmarks/score.py). The process then
    keeps the most memory that it has used, which the next batch needs anyway. With another C library, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        if not mallopt(_M_MMAP_THRESHOLD, _LARGEST):
            mallopt(_M_MMAP_THRESHOLD, _LARGEST_OF_OLD)
