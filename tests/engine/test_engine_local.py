"""What a driver that is stopped leaves of its workers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

DRIVER = """
import signal
import sys
from rich.console import Console
from curate.engine.local import LocalEngine
from curate.commands.progress import watch
from curate.runs.driver import drive
from curate.runs.passes import Declaration, Pass
from curate.runs.work import Work
from curate.store import Inputs, Store

if __name__ == "__main__":
    # As in a terminal. A shell starts what runs in its background with SIGINT ignored, and Python then leaves it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    made = {"p": Pass.of(Store(sys.argv[1]), Declaration("p", "", 1))}
    work = Work("p", "helpers.workers:endless", {"folder": sys.argv[1]}, made, Inputs({}, ()), (0, 1), processes=2)
    engine = LocalEngine()
    try:
        drive([work], engine, watch(Console(quiet=True)))
    except KeyboardInterrupt:
        print("stopped")
    finally:
        engine.close()
"""


def test_an_interrupted_run_says_so_and_nothing_else(tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    paths = os.pathsep.join((str(Path(__file__).parents[2]), str(Path(__file__).parents[1])))
    driver = subprocess.Popen(
        [sys.executable, str(tmp_path / "driver.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "busy").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # As a terminal does it: to every process of the group.
        os.killpg(driver.pid, signal.SIGINT)
        said, _ = driver.communicate(timeout=60)
    finally:
        if driver.poll() is None:
            driver.kill()
            driver.communicate()
    assert (driver.returncode, said) == (0, "stopped\n")
