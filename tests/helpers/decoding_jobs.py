"""A job for decoding processes whose pictures say what happens to the process: `b"burn"`, `b"sleep"`, …"""

import os
import signal
import sys
import time
from pathlib import Path

from curate.decoding import limits
from curate.decoding.child import Job, Result

NAME = "helpers.decoding_jobs:opened"


def opened(parameters: bytes) -> Job:
    """Returns the job; the parameters are the CPU seconds of a picture, and a folder for notes."""
    seconds, _, folder = parameters.decode().partition(" ")
    limits.CPU_SECONDS = float(seconds)
    limits.MEMORY = 128 << 20

    def work(data: bytes) -> Result:
        what, _, rest = data.decode().partition(" ")
        if what == "burn":
            while True:
                sum(range(1000))
        if what == "work":  # of CPU time, not of the clock
            until = time.process_time() + float(rest)
            while time.process_time() < until:
                sum(range(1000))
        if what == "allocate":
            kept = [bytearray(64 << 20) for _ in range(100)]
            return len(kept), []
        if what == "sleep":
            time.sleep(3600)
        if what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "once":  # killed the first time
            note = Path(folder) / rest
            if not note.exists():
                note.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if what == "exit":
            os._exit(3)
        if what == "raise":
            raise RuntimeError("a fault")
        if what == "malformed":
            return {"not": "what is read"}, []
        if what == "nested":
            sys.setrecursionlimit(10**6)
            deep: list[object] = []
            for _ in range(5000):
                deep = [deep]
            return deep, []
        return os.getpid(), [data.upper()]

    return work


def unimportable(_parameters: bytes) -> Job:
    raise ModuleNotFoundError("something is not installed")


def read(value: object, buffers: list[bytearray]) -> str:
    if not isinstance(value, int):
        raise TypeError("not a process id")
    (data,) = buffers
    return bytes(data).decode()
