"""Faults of disks and stores: told from faults of a part, waited for, and never counted."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from helpers.inline_engine import InlineEngine
from helpers.works import Silent, single

from curate.engine.local import LocalEngine
from curate.errors import SourceError, StorageFault, StoreError
from curate.runs import patience
from curate.runs.driver import drive
from curate.runs.surroundings import ERRNOS, fault
from curate.store import WHOLE, Store


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(patience, "FIRST", 0.01)
    monkeypatch.setattr(patience, "LONGEST", 0.02)


def raised_by(call):
    try:
        call()
    except Exception as error:  # noqa: BLE001 - the exception is the result
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(("number", "kind"), ERRNOS.items(), ids=errno.errorcode.get)
def test_an_errno_is_recognised_also_below_another_error(number, kind):
    def wrapped():
        try:
            raise OSError(number, os.strerror(number), "/a/file")
        except OSError as error:
            raise SourceError("the list cannot be read") from error

    found = fault(raised_by(wrapped))
    assert found is not None
    assert found.kind == kind
    assert os.strerror(number) in found.text


@pytest.mark.parametrize(
    "error",
    [
        ValueError("No space left on device"),
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        PermissionError(errno.EACCES, "Permission denied", "x"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        MemoryError(),
        pa.ArrowInvalid("not a parquet file"),
    ],
    ids=repr,
)
def test_a_fault_of_a_part_is_its_own(error):
    assert fault(error) is None


def test_a_full_disk_is_recognised_as_each_library_reports_it(tmp_path):
    with Path("/dev/full").open("wb", buffering=0) as full:
        assert fault(raised_by(lambda: full.write(b"x"))).kind == "disk"
    table = pa.table({"a": list(range(100_000))})

    def write_arrow():
        with pa.OSFile("/dev/full", "wb") as sink, pa.ipc.new_file(sink, table.schema) as stream:
            stream.write_table(table)

    assert fault(raised_by(write_arrow)).kind == "disk"
    limited = duckdb.connect(config={"temp_directory": str(tmp_path), "memory_limit": "20MB", "threads": 1})
    limited.execute("SET max_temp_directory_size = '1MB'")
    spilled = raised_by(lambda: limited.execute("SELECT * FROM range(5000000) t(a) ORDER BY hash(a)").fetchall())
    assert fault(spilled).kind == "disk"


@pytest.mark.parametrize(
    ("status", "kind"), [("403", "refused"), ("500", "away"), ("503", "away"), ("507", "disk"), (None, "away")]
)
def test_an_s3_server_says_which_it_is(faulty_s3, monkeypatch, status, kind):
    monkeypatch.setattr("curate.store._ATTEMPTS", 2)
    faulty_s3.always = status
    store = Store("s3://bucket/run", None if status else "http://127.0.0.1:1")
    assert fault(raised_by(lambda: store.put("a", b"a"))).kind == kind
    assert fault(raised_by(lambda: store.read("a"))).kind == kind
    assert fault(raised_by(lambda: store.exists("a"))).kind == kind


def test_missing_credentials_are_refused(s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    assert fault(raised_by(lambda: Store("s3://bucket/without-credentials").read("a"))).kind == "refused"


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "run"))


def test_a_fault_that_ends_is_waited_for_and_counts_against_no_part(store, tmp_path):
    log, watcher = tmp_path / "log", Silent()
    work = single(store, "trouble", range(3), log=str(log), full=[0, 1], times=5)
    assert drive([work], InlineEngine(), watcher, patience=60) == {"out": {}}
    assert work.done() == {0, 1, 2}
    assert log.read_text().split().count("0") == 6
    assert store.names(f"{work.ledger}/attempts") == store.names(f"{work.ledger}/failed") == []
    said = "out: 000000 cannot go on: OSError: [Errno 28] No space left on device: '/full'; waiting up to 1:00 min"
    assert watcher.told[0].startswith(said)
    assert len(watcher.told) == 2
    assert " goes on after 0:0" in watcher.told[1]


@pytest.mark.parametrize("seconds", [0, 0.1])
@pytest.mark.parametrize("unit", [0, WHOLE])
def test_a_fault_that_stays_stops_the_run_and_the_same_command_goes_on(store, tmp_path, seconds, unit):
    work = single(store, "trouble", (unit,), full=[unit])
    for _ in range(3):
        with pytest.raises(StorageFault, match=r"No space left .*the same command goes on from here$") as caught:
            drive([work], InlineEngine(), Silent(), patience=seconds)
        assert "\n" not in str(caught.value)
    healed = single(store, "trouble", (unit,))
    assert drive([healed], InlineEngine(), Silent()) == {"out": {}}


def test_other_parts_go_on_while_one_is_held(store, tmp_path):
    work = single(store, "trouble", range(30), full=[0])
    with pytest.raises(StorageFault, match=r"out: 000000 cannot go on"):
        drive([work], InlineEngine(), Silent(), patience=0.2)
    assert work.done() == set(range(1, 30))


def test_a_part_that_fails_by_itself_is_set_aside_while_another_is_held(store, tmp_path):
    log = tmp_path / "log"
    work = single(store, "trouble", range(3), log=str(log), full=[0], times=3, **{"raise": [1]})
    assert drive([work], InlineEngine(), Silent(), patience=60) == {"out": {1: "ValueError: part 1 is bad"}}
    assert work.done() == {0, 2}


def test_a_server_that_is_away_for_a_while_is_waited_for_by_workers(faulty_s3, tmp_path, monkeypatch):
    """The first request of a unit comes before its work; a fault there once ended the worker process."""
    monkeypatch.setattr("curate.store._ATTEMPTS", 1)
    store, watcher = Store("s3://bucket/run"), Silent()
    work = single(store, "double", range(2))
    assert work.done() == set()
    work.outputs["out"].settle()
    faulty_s3.faults.extend(["503"] * 20)
    faulty_s3.only = "done/0000"
    assert drive([work], InlineEngine(), watcher, patience=60) == {"out": {}}
    assert faulty_s3.seen["503"] == 20
    assert len(watcher.told) == 2
    assert store.names(f"{work.ledger}/failed") == []


def test_a_real_file_system_that_is_full_and_grows(tmp_path):
    """Runs where file systems may be mounted: a run on a tmpfs of 64 kB waits until it is made larger."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("this user may not mount file systems")
    try:
        (place / "filler").write_bytes(bytes(48 << 10))
        store, watcher = Store(str(place / "run")), Grower(place)
        work = single(store, "trouble", range(12), bytes=4096)
        engine = LocalEngine()
        try:
            assert drive([work], engine, watcher, patience=60) == {"out": {}}
        finally:
            engine.close()
        assert work.done() == set(range(12))
        assert "No space left on device" in watcher.told[0]
    finally:
        subprocess.run(["umount", str(place)], check=True)


class Grower(Silent):
    """Makes the file system larger when it is told that one is full."""

    def __init__(self, place):
        super().__init__()
        self.place = place

    def tell(self, line):
        super().tell(line)
        if len(self.told) == 1:
            subprocess.run(["mount", "-o", "remount,size=1m", str(self.place)], check=True)


def test_a_driver_that_cannot_take_its_output_waits_as_well():
    """The first thing that a driver does turns errors of the store into a StoreError."""
    left, ended = [2], []

    def run(_watcher):
        if left[0]:
            left[0] -= 1
            with Store("/run").accessible("written"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return "done"

    watcher = Silent()
    assert patience.outlast(run, 60, watcher, between=lambda: ended.append(1)) == "done"
    assert len(ended) == 2
    (line,) = watcher.told
    assert line.startswith("the driver cannot go on: OSError: [Errno 28] No space left on device; waiting up to 1:00")

    def wrong(_watcher):
        raise StoreError("no such bucket")

    with pytest.raises(StoreError, match="no such bucket"):
        patience.outlast(wrong, 60, watcher, between=lambda: None)


def test_no_fault_loads_a_library_to_be_recognised():
    code = "import sys; from curate.runs.surroundings import fault, io_errors; fault(ValueError('x')); io_errors(); "
    code += "print([m for m in ('botocore', 'aiohttp', 'duckdb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
