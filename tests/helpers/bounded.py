"""Programs that run in a process of their own with a bound on CPU seconds and memory, for input made to exceed them."""

import os
import resource
import subprocess
import sys


def printed(program: str, seconds: int = 20, memory: int = 2 << 30) -> list[str]:
    """The words that a Python program prints; one that takes more CPU seconds or bytes of memory fails the test."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(command, preexec_fn=limit, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"exit {result.returncode}: {result.stderr}"
    return result.stdout.split()
