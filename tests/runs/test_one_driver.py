"""One driver at a time: a living one is named, a dead one's place is taken, by one of several."""

import json
import os
import platform
import subprocess
import sys
import threading
import time

import pytest

from curate.errors import InUse
from curate.runs import one_driver
from curate.runs.one_driver import FOLDER, OneDriver, holder
from curate.store import Store

CHILD = """
import sys
from curate.runs.one_driver import OneDriver
from curate.store import Store
with OneDriver(Store(sys.argv[1]), print):
    print("holds", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "run"))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(one_driver, "BEAT", 0.05)
    monkeypatch.setattr(one_driver, "DEAD", 0.5)


def silent(line):
    raise AssertionError(f"told: {line}")


def elsewhere(store, number=1, **facts):
    """Writes the file of a driver on another machine."""
    content = {"number": number, "host": "other", "boot": "b", "pids": "p", "pid": 7, "started": "1", **facts}
    now = time.time()
    store.put(f"{FOLDER}/{number:06d}.json", json.dumps({"since": now - 100, "beat": now, **content}).encode())


def held(store):
    return [store.read_json(f"{FOLDER}/{name}") for name in store.names(FOLDER)]


def test_it_is_held_inside_and_free_after(store):
    with OneDriver(store, silent):
        (found,) = held(store)
        assert (found["host"], found["pid"]) == (platform.node(), os.getpid())
        assert f"on {platform.node()}, process {os.getpid()}, since 2" in holder(store)
        with pytest.raises(InUse, match="in use by another curate"):
            OneDriver(store, silent).__enter__()
    assert held(store) == []
    assert holder(store) == ""


@pytest.mark.parametrize("reaped", [True, False])
def test_a_process_that_was_killed_here_is_replaced_at_once(store, reaped):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, store.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "holds\n"
        with pytest.raises(InUse, match=f"process {child.pid},"):
            OneDriver(store, silent).__enter__()
        child.kill()
        if reaped:
            child.wait()
        else:
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with OneDriver(store, silent):
            assert [found["pid"] for found in held(store)] == [os.getpid()]
    finally:
        child.kill()
        child.communicate()


def test_an_output_that_could_not_be_freed_is_taken_again_by_its_own_process(store, monkeypatch):
    """As where the store is away for a while: the driver waits, and goes on."""

    def away(self, name):
        raise OSError("away")

    with monkeypatch.context() as patch, OneDriver(store, silent):
        patch.setattr(Store, "delete", away)
    assert len(held(store)) == 1
    with OneDriver(store, silent):
        assert [found["number"] for found in held(store)] == [2]
    assert held(store) == []


@pytest.mark.usefixtures("quick")
def test_a_living_driver_of_another_machine_is_known_by_its_beat(store):
    elsewhere(store, beat=time.time())
    ended = threading.Event()

    def beat():
        while not ended.wait(0.1):
            elsewhere(store, beat=time.time())

    living = threading.Thread(target=beat)
    living.start()
    told = []
    try:
        with pytest.raises(InUse, match="on other, process 7"):
            OneDriver(store, told.append).__enter__()
    finally:
        ended.set()
        living.join()
    assert len(told) == 1
    assert "sign of life of another curate: on other" in told[0]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("ago", [0.0, 100.0])
def test_a_silent_driver_of_another_machine_is_replaced(store, ago):
    elsewhere(store, number=41, beat=time.time() - ago)
    told = []
    with OneDriver(store, told.append):
        assert [found["number"] for found in held(store)] == [42]
    assert len(told) == (ago == 0)


@pytest.mark.usefixtures("quick")
def test_who_was_replaced_stops(store):
    with OneDriver(store, silent) as driver:
        driver.check()
        elsewhere(store, number=2)
        deadline = time.monotonic() + 10
        while not driver._successor and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(InUse, match=r"took over.*on other"):
            driver.check()
    # What it frees is its own place.
    assert [found["host"] for found in held(store)] == ["other"]


@pytest.mark.usefixtures("quick")
def test_of_several_that_find_a_dead_one_one_wins(store):
    elsewhere(store, beat=0.0)
    outcomes = []
    barrier, over = threading.Barrier(6), threading.Event()

    def contend():
        driver = OneDriver(store, lambda _: None)
        barrier.wait()
        try:
            with driver:
                outcomes.append("holds")
                over.wait(10)
        except InUse:
            outcomes.append("in use")

    threads = [threading.Thread(target=contend) for _ in range(6)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while len(outcomes) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    over.set()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["holds", *["in use"] * 5]


def test_on_s3_the_second_is_refused(s3):
    store = Store("s3://bucket/run")
    with OneDriver(store, silent), pytest.raises(InUse):
        OneDriver(store, silent).__enter__()
    assert held(store) == []


def test_a_driver_that_is_replaced_between_two_looks_is_looked_for_again(store, monkeypatch):
    """The dead one's file was listed and is gone: that is not a free output."""
    elsewhere(store, number=1, beat=0.0)
    names = Store.names

    def then_replaced(self, folder):
        listed = names(self, folder)
        if listed == ["000001.json"]:
            elsewhere(store, number=2)
            store.delete(f"{FOLDER}/000001.json")
        return listed

    monkeypatch.setattr(Store, "names", then_replaced)
    assert "on other" in holder(store)
    assert one_driver._highest(store)["number"] == 2
