"""The job of embed's decoding processes, with one image that never comes to an end."""

from curate.decoding import limits
from curate.decoding.child import Job, Result
from curate.embed.decode import decode_job


def opened(parameters: bytes) -> Job:
    limits.CPU_SECONDS = 1.0
    usual = decode_job.opened(parameters)

    def work(data: bytes) -> Result:
        while data == b"this one takes for ever":
            pass
        return usual(data)

    return work
