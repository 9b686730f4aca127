"""A Ray head that does not answer: one line and the exit code, also where a call of Ray never returns."""

import subprocess
import sys

from curate.errors import Exit

HEAD = """
import socket, sys, time
from curate.engine import ray as engine

engine._HEAD_CHECKED_EVERY, engine._HEAD_AWAY_FOR, engine._LEFT_WITHIN = 0.05, 0.2, {left_within}
with socket.socket() as taken:
    # Bound and not listening: nothing answers here.
    taken.bind(("127.0.0.1", 0))
    head = engine._Head(f"127.0.0.1:{{taken.getsockname()[1]}}")
    {then}
"""


def of_head(then: str, left_within: float) -> "subprocess.CompletedProcess[str]":
    code = HEAD.format(then=then, left_within=left_within)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_a_head_that_does_not_answer_is_a_fault_that_the_run_meets():
    then = "while head._fault is None: time.sleep(0.05)\n    head.check()"
    ended = of_head(then, 100.0)
    assert ended.returncode == 1
    assert "ClusterFault: the head of the Ray cluster at 127.0.0.1:" in ended.stderr


def test_a_run_that_cannot_leave_ray_is_ended_with_the_line_and_the_exit_code():
    """As where the machine of the head vanishes, and a call of Ray does not return."""
    ended = of_head("time.sleep(100)", 0.2)
    assert ended.returncode == Exit.STORAGE
    (line,) = ended.stderr.splitlines()
    assert line.startswith("curate: the head of the Ray cluster at 127.0.0.1:")
    assert line.endswith("once it is back, the same command continues from here")


def test_a_run_that_has_left_ray_is_not_ended():
    ended = of_head("head.close(); time.sleep(1); print('done')", 0.1)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")
