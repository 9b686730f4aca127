"""The Ray engine on a Ray of its own with one CPU, where everything that runs at once must fit."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from curate.engine.ray import RayEngine
from curate.errors import StoreError

SCRIPT = """
import sys
from pathlib import Path
import ray
from helpers.works import Silent, chain, reading_ahead, single, told
from curate.engine.ray import RayEngine
from curate.runs.driver import drive
from curate.store import Store

run, log = sys.argv[1:]
engine = RayEngine(cpus=1)
works = chain(Store(run), range(8))
assert drive(works, engine, Silent()) == {"double": {}, "add": {}}
assert works[1].done() == set(range(8))
assert ray.cluster_resources()["CPU"] == 1, "the test means to run on one CPU"
poison = single(Store(run + "-poison"), "trouble", range(4), log=log, **{"die": [1], "raise": [2]})
aside = drive([poison], engine, Silent())["out"]
assert sorted(aside) == [1, 2], aside
assert "died" in aside[1] and len(aside[1]) < 400 and aside[2] == "ValueError: part 2 is bad", aside
assert poison.done() == {0, 3}
ahead = reading_ahead(Store(run + "-ahead"), Path(log + "-told"), range(5), 1, die=[2])
assert sorted(drive([ahead], engine, Silent())["out"]) == [2]
assert ahead.done() == {0, 1, 3, 4}
units = [line for worker in told(Path(log + "-told")) for line in worker]
assert ["0", "1"] in units and ["1", "2"] in units, units
engine.close()
print("all done")
"""


def test_chained_works_stream_and_poison_is_set_aside_on_one_cpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(Path(__file__).parents[up]) for up in (1, 2)))
    arguments = [str(tmp_path / "run"), str(tmp_path / "log")]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("all done")


def test_an_address_where_no_cluster_answers_is_told_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    with pytest.raises(StoreError, match=f"no Ray cluster answers at 127.0.0.1:{port}: Connection refused"):
        RayEngine(address=f"127.0.0.1:{port}")
