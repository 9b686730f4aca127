"""Limits of a decoding process: CPU time of each picture, memory, and its end when its parent dies.

CPU time and not the clock ends a picture, so that a machine under load gives no other statuses. ITIMER_PROF counts it
in microseconds (RLIMIT_CPU counts whole seconds of the whole process), and its signal ends a process also in the midst
of a decoder's C code. Memory and the parent's death are limited on Linux only.
"""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

CPU_SECONDS = 10.0
"""CPU seconds of a picture, beside those for its pixels: a thousand times what a usual picture takes."""

CPU_SECONDS_PER_PIXEL = 1e-6
"""CPU seconds of each pixel: several times what the slowest step (compressing a large PNG) takes."""

MEMORY = 1 << 30
MEMORY_PER_PIXEL = 32
"""Bytes of address space for a picture beside what the process has once its job is ready, and for each pixel: a
picture is held several times, with four bytes a pixel, while its colours are converted."""

OUT_OF_CPU = -signal.SIGPROF
"""The exit code of a process that a picture's CPU time has ended."""

OUT_OF_MEMORY = 71
"""The exit code of a process that had no memory for a picture."""

_PR_SET_PDEATHSIG = 1

_memory_before: int | None = None
"""Bytes of address space of a decoding process once its job is ready; None in every other process."""


def end_with(parent: int) -> None:
    """Has the kernel kill this process as soon as the thread that started it ends; `parent` is its process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before
            os._exit(0)


def begin() -> None:
    """Has `allow` limit this process from now on; called once the job is ready. Also keeps it from dumping core."""
    global _memory_before  # noqa: PLW0603 - a fact of the process, as its limits are
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _memory_before = 0
    if sys.platform == "linux":
        _memory_before = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def allow(pixels: int = 0) -> None:
    """Allows the CPU time and memory of a picture, from now on; does nothing outside of a decoding process.

    Called before each picture, and by the job once it knows how many pixels it will decode and make.
    """
    if _memory_before is None:
        return
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS + CPU_SECONDS_PER_PIXEL * pixels)
    _limit_memory(_memory_before + MEMORY + MEMORY_PER_PIXEL * pixels)


def end() -> None:
    """Ends the limits, until the next picture."""
    signal.setitimer(signal.ITIMER_PROF, 0)
    _limit_memory(None)


def _limit_memory(most: int | None) -> None:
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        bounds = [bound for bound in (most, hard) if bound not in (None, resource.RLIM_INFINITY)]
        resource.setrlimit(resource.RLIMIT_AS, (min(bounds, default=resource.RLIM_INFINITY), hard))
