"""SIGTERM and SIGINT: parts in progress are finished or given up, and the next start continues."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = """
import json
import signal
import sys
from types import SimpleNamespace
from curate import flow
from curate.commands import main as cli
from curate.commands import stopping
from curate.runs.driver import drive
from curate.store import Store
from helpers.works import single

folder, seconds, engine = sys.argv[1:]


def work(prepared, engine, watcher, options):
    slow = single(Store(folder + "/run"), "slow", range(3), log=folder + "/log", seconds=json.loads(seconds))
    drive([slow], engine, watcher)
    return SimpleNamespace(done=slow.done())


def command(arguments):
    keys = {"fetch": SimpleNamespace(allow=[]), "storage": SimpleNamespace(patience=0)}
    prepared = SimpleNamespace(recipe=SimpleNamespace(**keys))
    print(sorted(cli._drive(prepared, arguments, None).done))
    return 0


if __name__ == "__main__":
    # As in a terminal. A shell starts what runs in its background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    flow.run, cli._run, cli.UNITS_END_WITHIN = work, command, 2
    sys.exit(cli.main(["run", "recipe.yaml", "--engine", engine]))
"""

LINE = "curate: stopping: parts in progress are finished or given up; the same command continues from here\n"


def start(tmp_path, code, *arguments):
    script = tmp_path / "command.py"
    script.write_text(code)
    paths = os.pathsep.join(str(Path(__file__).parents[up]) for up in (2, 1))
    return subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(path, words):
    deadline = time.monotonic() + 60
    while not (path.exists() and words in path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stopped(tmp_path, number, seconds, engine):
    """Starts the command, sends the signal once unit 0 has begun, and returns what came of it."""
    command = start(tmp_path, COMMAND, seconds, engine)
    try:
        wait_for(tmp_path / "log", "began 0")
        # As a terminal and a service manager do it: to every process of the group.
        os.killpg(command.pid, number)
        begun = time.monotonic()
        _, stderr = command.communicate(timeout=60)
        assert time.monotonic() - begun < 25
    finally:
        if command.poll() is None:
            command.kill()
            command.communicate()
    return command.returncode, stderr


def check_next_start(tmp_path, engine):
    again = start(tmp_path, COMMAND, "{}", engine)
    stdout, stderr = again.communicate(timeout=90)
    assert (again.returncode, stdout) == (0, "[0, 1, 2]\n"), stderr


def check_stopped(tmp_path, number, code, seconds, log, engine):
    assert stopped(tmp_path, number, seconds, engine) == (code, LINE)
    assert (tmp_path / "log").read_text().splitlines() == log


FINISHED = ('{"0": 1}', ["began 0", "ended 0"])
GIVEN_UP = ('{"0": 600}', ["began 0"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_part_in_progress_is_finished(tmp_path, number, code):
    check_stopped(tmp_path, number, code, *FINISHED, "local")


def test_a_part_that_takes_too_long_is_given_up(tmp_path):
    check_stopped(tmp_path, signal.SIGTERM, 143, *GIVEN_UP, "local")
    check_next_start(tmp_path, "local")


@pytest.mark.soak
@pytest.mark.parametrize(("seconds", "log"), [FINISHED, GIVEN_UP])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_ray_stops_likewise(tmp_path, number, code, seconds, log):
    check_stopped(tmp_path, number, code, seconds, log, "ray")
    check_next_start(tmp_path, "ray")


STUCK = """
import hashlib
import pathlib
import sys
from curate.commands import main as cli
from curate.commands import stopping


def command(arguments):
    pathlib.Path(sys.argv[1], "log").write_text("began 0")
    # A call of a library that does not return to Python: no handler of a signal can run.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


stopping.ENDS_WITHIN = 0.5
cli._run = command
sys.exit(cli.main(["run", "recipe.yaml"]))
"""


def test_a_library_that_does_not_return_is_ended_in_time(tmp_path):
    command = start(tmp_path, STUCK)
    wait_for(tmp_path / "log", "began 0")
    command.terminate()
    assert command.communicate(timeout=30) == (
        "",
        "curate: stopped without waiting any longer; the same command continues from here\n",
    )
    assert command.returncode == 143
