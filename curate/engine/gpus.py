"""Lists the NVIDIA GPUs of this machine, without torch, and divides them among workers."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "CUDA_VISIBLE_DEVICES"
"""The environment variable by which CUDA shows a process some of the machine's GPUs."""

_DRIVER = Path("/proc/driver/nvidia/gpus")


def visible() -> list[str]:
    """Returns the GPUs that this process may use, as values of `CUDA_VISIBLE_DEVICES`; empty where there are none."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        # CUDA ignores the first device that is not valid, such as -1, and all after it.
        names = [name.strip() for name in chosen.split(",")]
        end = next((place for place, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:end]
    if _DRIVER.is_dir():
        return [str(number) for number in range(len(list(_DRIVER.iterdir())))]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]


def share(gpus: Sequence[str], place: int, each: float) -> str | None:
    """Returns the value of `CUDA_VISIBLE_DEVICES` for one worker: its GPUs, assigned in turn.

    Args:
        gpus: the GPUs of the machine.
        place: the number of the worker among those of its work, from 0.
        each: GPUs of each worker; with a fraction, several workers share one.

    Returns:
        the value, or None where the worker has no GPU and its environment stays unchanged.
    """
    if not gpus or not each:
        return None
    first = int(place * each)
    count = max(1, round(each))
    return ",".join(gpus[(first + further) % len(gpus)] for further in range(count))
