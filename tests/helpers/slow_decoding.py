"""The jobs of embed's and fetch's decoding processes, with pictures that take for ever, bomb or kill their process."""

import os
import signal

from curate.decoding import limits
from curate.decoding.child import Job, Result
from curate.embed.decode import decode_job
from curate.fetch.pictures import normalise_job

SLOW, BOMB, DEADLY, FAULTY = b"this one takes for ever", b"this one bombs", b"this one kills", b"this one is a fault"


def opened(parameters: bytes) -> Job:
    """Returns embed's job."""
    return _with_hostile(decode_job.opened(parameters))


def normalising(parameters: bytes) -> Job:
    """Returns fetch's job."""
    return _with_hostile(normalise_job.opened(parameters))


def _with_hostile(usual: Job) -> Job:
    limits.CPU_SECONDS = 1.0

    def work(data: bytes) -> Result:
        while data.endswith(SLOW):
            pass
        if data.endswith(BOMB):
            # Refused as a whole, before a page of it is touched.
            return None, [bytes(64 << 30)]
        if data.endswith(DEADLY):
            os.kill(os.getpid(), signal.SIGKILL)
        if data.endswith(FAULTY):
            raise RuntimeError("a fault of Curate")
        return usual(data)

    return work
