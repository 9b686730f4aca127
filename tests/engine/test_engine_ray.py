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
import dataclasses
import sys
from pathlib import Path
import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError
from curate.engine import ray as engine_module
from curate.errors import UsageError
from curate.runs.booking import Booking
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
# Two results of a unit arrive as errors of Ray: it starts again in another worker, and only one of the starts counts.
get, raised, seen = ray.get, [NodeDiedError("a node died"), OutOfMemoryError("a worker was killed")], []
def fail_twice(reference):
    if raised:
        raise raised.pop()
    return get(reference)
names = set()
class Watching(Silent):
    def advance(self, name, result):
        seen.append((result.status, result.error))
        names.update(ray.util.list_named_actors())
ray.get = fail_twice
surroundings = single(Store(run + "-surroundings"), "trouble", range(3), pids=log + "-pids")
assert drive([surroundings], engine, Watching()) == {"out": {}}
assert seen[:2] == [("died", "a worker was killed"), ("lost", "a node died")] and len(seen) == 5, seen
assert surroundings.done() == {0, 1, 2}
# The first worker had done the unit before its result was lost, so the second had nothing to do.
assert len(set(Path(log + "-pids").read_text().split())) == 2
assert len(list(surroundings.store.names(surroundings.ledger + "/failed"))) == 0
assert {name.rpartition(" ")[0] for name in names} == {"out"}, names
ray.get = get
# Each worker reserves the only CPU. The first work's worker dies, the second work's worker gets the CPU, and returns it
# when there is nothing else to do.
whole = Booking(cpus=1.0)
engine_module._GIVES_WAY_AFTER = 1
first = single(Store(run + "-first"), "trouble", range(4), log=log + "-first", die=[2], heal=True)
second = single(Store(run + "-second"), "double", range(4))
first = dataclasses.replace(first, name="first", booking=whole)
second = dataclasses.replace(second, name="second", after=("first",), booking=whole)
assert drive([first, second], engine, Silent()) == {"first": {}, "second": {}}
# What this machine can never give is refused at once.
for booking, text in (
    (Booking(memory=900.0, section="w"), "w: a worker of out reserves 0.25 CPUs and 900 GB of memory"),
    (Booking(cpus=64.0, gpus=8.0, section="w"), "w: a worker of out reserves 1 CPU and 8 GPUs"),
):
    refused = dataclasses.replace(single(Store(run + "-refused"), "double", range(2)), booking=booking)
    try:
        drive([refused], engine, Silent())
    except UsageError as error:
        assert str(error) == text + ", and this machine has less", error
    else:
        raise AssertionError("it was not refused")
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
