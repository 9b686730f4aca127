"""Bookings: what a worker reserves of its machine, and how many workers a pass has where the recipe does not say so."""

import os
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """CPUs and GPUs of one machine, or of a cluster."""

    cpus: float
    gpus: float


def one(_available: Resources) -> int:
    """Returns 1."""
    return 1


def for_fetch(available: Resources) -> int:
    """Returns one worker for two CPUs, at most 16; each worker has many requests open."""
    return min(16, max(1, int(available.cpus // 2)))


def for_embed(available: Resources) -> int:
    """Returns one worker for each GPU; without GPUs one for four CPUs, as each worker loads the models."""
    return int(available.gpus) if available.gpus >= 1 else max(1, int(available.cpus // 4))


def for_signals(available: Resources) -> int:
    """Returns one worker for four CPUs, at least two."""
    return max(2, int(available.cpus // 4))


def for_pack(available: Resources) -> int:
    """Returns one worker for each CPU."""
    return max(1, int(available.cpus))


def for_search(threads: int, available: Resources) -> int:
    """Returns one worker for each GPU; without GPUs one for so many CPUs as each has threads."""
    return int(available.gpus) if available.gpus >= 1 else max(1, int(available.cpus // threads))


@dataclass(frozen=True)
class Booking:
    """The resources that each worker of a work reserves.

    Attributes:
        cpus: CPUs; None: one.
        gpus: GPUs; None: one where the machine or cluster has, or can have, any.
        memory: gigabytes; None: no reservation.
        default_count: gives the number of workers of a work that does not name it, from what is available.
        section: the section of the recipe that sets this booking, for errors; empty where none does.
    """

    cpus: float | None = None
    gpus: float | None = 0.0
    memory: float | None = None
    default_count: Callable[[Resources], int] = one
    section: str = ""


def cores() -> int:
    """Returns the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
