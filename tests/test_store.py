import contextlib
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import BrokenResult, StoreError
from curate.remembered import Remembered
from curate.store import WHOLE, Folder, Store, key, parquet_bytes


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    if request.param == "local":
        return Store(str(tmp_path / "run"))
    return Store(f"memory://{tmp_path.name}")


def test_a_name_holds_what_was_put_last(store):
    store.put("a/b.json", b"1")
    store.put("a/b.json", b"22")
    assert store.read("a/b.json") == b"22"
    assert store.names("a") == ["b.json"]
    assert store.exists("a/b.json")
    store.delete("a/b.json")
    store.delete("a/b.json")
    assert not store.exists("a/b.json")
    assert store.names("a") == []
    assert store.names("nowhere") == []


def test_the_first_creation_wins(store):
    assert store.create("done/000001.json", b"first")
    assert not store.create("done/000001.json", b"second")
    assert store.read("done/000001.json") == b"first"


def test_of_many_creators_at_once_one_wins(tmp_path):
    store = Store(str(tmp_path))
    barrier = threading.Barrier(8)
    won: list[int] = []

    def create(number: int) -> None:
        barrier.wait()
        if store.create("marker", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("marker") == str(won[0]).encode()
    assert store.names("") == ["marker"]


def test_a_place_is_tried_with_all_that_a_run_does(store):
    assert store.check_writable() == ""
    assert store.entries() == {}


def test_a_file_system_without_hard_links_is_one_line(tmp_path, monkeypatch):
    def refuse(*_names):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(
        StoreError, match=r"on a file system without hard links, .* choose an output on another file system"
    ):
        Store(str(tmp_path)).check_writable()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_nothing_that_is_listed(tmp_path):
    store = Store(str(tmp_path))
    store.put("done/000001.json", b"{}")
    (tmp_path / "done" / ".000002.json.1234abcd").write_bytes(b"half")
    assert store.names("done") == ["000001.json"]


def test_local_copies_and_moves(store, tmp_path):
    source = tmp_path / "source.bin"
    source.write_bytes(b"bytes")
    store.put_file("parts/x.bin", source)
    with store.as_local("parts/x.bin") as path:
        assert path.read_bytes() == b"bytes"
    with store.open("parts/x.bin") as opened:
        opened.seek(2)
        assert opened.read() == b"tes"


def test_only_committed_files_are_found(store):
    folder = Folder(store, "fetch", "0123")
    lost = folder.outputs(3)
    lost.put("images.tar", b"of a killed attempt")
    assert not folder.is_done(3)
    assert folder.units() == set()
    output = folder.outputs(3)
    table = pa.table({"a": [1, 2]})
    output.put_table("images.parquet", table)
    output.counts["images"] = 2
    assert output.commit()
    assert folder.units() == {3}
    assert folder.table("images.parquet", 3).equals(table)
    marker = folder.marker(3)
    assert marker.counts == {"images": 2}
    assert marker.files["images.parquet"].rows == 2
    with pytest.raises(BrokenResult, match=r"has no file 'images\.tar'"):
        folder.file("images.tar", 3)


def test_a_late_twin_changes_nothing(store):
    folder = Folder(store, "fetch", "0123")
    first, twin = folder.outputs(0), folder.outputs(0)
    twin.put("a.txt", b"twin")
    first.put("a.txt", b"first")
    assert first.commit().attempt == twin.commit().attempt == first.attempt
    assert store.read(folder.file("a.txt", 0)) == b"first"


def test_the_whole_has_a_marker_of_its_own(store):
    folder = Folder(store, "plan", "0123")
    whole = folder.outputs()
    part = whole.part(0)
    part.put_json("pairs.json", {"x": 1})
    part.commit()
    assert not folder.is_done()
    whole.commit()
    assert folder.units() == {0, WHOLE}
    assert folder.json("pairs.json", 0) == {"x": 1}
    assert (key(7), key(1234567), key(WHOLE)) == ("000007", "1234567", "all")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot be written: Not a directory") as caught:
        Store(str(tmp_path / "file" / "run")).check_writable()
    assert "\n" not in str(caught.value)


def test_a_damaged_marker_is_named(tmp_path):
    store = Store(str(tmp_path))
    store.put("fetch-0123/done/000000.json", b"{half")
    with pytest.raises(BrokenResult, match=r"000000\.json: it is not JSON"):
        Folder(store, "fetch", "0123").marker(0)


@given(st.lists(st.integers()))
def test_equal_tables_give_equal_bytes(numbers):
    table = pa.table({"n": pa.array([n % 2**62 for n in numbers], pa.int64())})
    stored = parquet_bytes(table)
    assert stored == parquet_bytes(table)
    assert pq.read_table(pa.BufferReader(stored)).equals(table)


def test_a_real_s3_server(s3, tmp_path):
    store = Store("s3://bucket/a run")
    # rclone ignores If-None-Match: the run works, and is told what to heed.
    said = store.check_writable()
    assert said.startswith("s3://bucket/a run: this server lets a second writer replace")
    assert "run one command at a time" in said
    assert "\n" not in said
    assert store.entries() == {}
    assert store.create("done/000001.json", b"first")
    assert not store.create("done/000001.json", b"second")
    store.put("done/000002.json", b"{}")
    assert store.names("done") == ["000001.json", "000002.json"]
    store.put("a.json", b"{}")
    assert store.entries() == {"a.json": "file", "done": "directory"}
    assert store.folders() == ["done"]
    assert Store("s3://bucket/nowhere").entries() == {}
    source = tmp_path / "big.bin"
    source.write_bytes(bytes(6_000_000))
    folder = Folder(store, "fetch", "0123")
    output = folder.outputs(0)
    output.put_file("images.tar", source)
    output.put_table("images.parquet", pa.table({"a": [1]}))
    assert output.commit()
    assert folder.units() == {0}
    assert folder.table("images.parquet", 0)["a"].to_pylist() == [1]
    with store.as_local(folder.file("images.tar", 0)) as path:
        assert path.stat().st_size == 6_000_000
    with store.open(folder.file("images.tar", 0)) as opened:
        opened.seek(5_999_999)
        assert opened.read() == b"\0"
    store.delete("done/000001.json")
    assert not store.exists("done/000001.json")
    assert store.names("nowhere") == []


@pytest.mark.parametrize("fault", ["bucket", "credentials", "host"])
def test_what_an_s3_server_says_against_it_is_one_line(s3, free_port, monkeypatch, fault):
    url = "s3://missing-bucket/run" if fault == "bucket" else "s3://bucket/run"
    if fault == "credentials":
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    endpoint = "http://127.0.0.1:1" if fault == "host" else None
    with pytest.raises(StoreError, match=r"s3://.* cannot be written: .+") as caught:
        Store(url, endpoint).check_writable()
    assert "\n" not in str(caught.value)


CALLS = {
    "exists": lambda store, _: store.exists("a/there.json") and not store.exists("a/nowhere.json"),
    "kind": lambda store, _: store.kind("a") == "directory",
    "read": lambda store, _: store.read("a/there.json") == b"there",
    "read_range": lambda store, _: store.read_range("a/there.json", 1, 3) == b"he",
    "open": lambda store, _: opened(store, "a/there.json") == b"there",
    "as_local": lambda store, _: copied(store, "a/there.json") == b"there",
    "names": lambda store, _: store.names("a") == ["there.json"],
    "entries": lambda store, _: store.entries() == {"a": "directory"},
    "put": lambda store, _: store.put("a/new.json", b"new") is None and store.read("a/new.json") == b"new",
    "create": lambda store, _: store.create("a/new.json", b"new") and store.read("a/new.json") == b"new",
    "delete": lambda store, _: store.delete("a/there.json") is None and not store.exists("a/there.json"),
    "put_file": lambda store, path: store.put_file("a/f", path) is None and store.read("a/f") == b"file",
}


def opened(store, name):
    with store.open(name) as file:
        return file.read()


def copied(store, name):
    with store.as_local(name) as path:
        return path.read_bytes()


@pytest.mark.parametrize("faults", [["500", "503"], ["reset_before", "reset_after"]], ids=["errors", "resets"])
def test_every_call_survives_six_faults_in_a_row(faulty_s3, tmp_path, faults):
    faulty_s3.conditional = True
    for name, call in CALLS.items():
        store, source = prepared(name, tmp_path)
        faulty_s3.seen.clear()
        faulty_s3.faults.extend(faults * 3)
        assert call(store, source), name
        assert [faulty_s3.seen[fault] for fault in faults] == [3, 3], name


def test_calls_survive_answers_that_break_off_or_do_not_come(faulty_s3, tmp_path):
    faulty_s3.conditional = True
    for name in ("read", "open", "as_local", "names", "create", "put_file"):
        call = CALLS[name]
        store, source = prepared(name, tmp_path)
        faulty_s3.seen.clear()
        faulty_s3.faults.extend(["truncate", "stall", "truncate"])
        assert call(store, source), name
        assert faulty_s3.seen["truncate"] == 2, name


def test_a_read_survives_six_answers_that_break_off(faulty_s3, tmp_path):
    store, _ = prepared("read", tmp_path)
    faulty_s3.faults.extend(["truncate"] * 6)
    assert store.read("a/there.json") == b"there"


def prepared(name, tmp_path):
    store = Store(f"s3://bucket/{name}")
    store.put("a/there.json", b"there")
    source = tmp_path / "source"
    source.write_bytes(b"file")
    return store, source


def test_a_big_file_arrives_whole_though_every_third_answer_breaks_off(faulty_s3, tmp_path, monkeypatch):
    store = Store("s3://bucket/run")
    # Above this size s3fs reads ranges side by side, and does not repeat one that breaks off.
    monkeypatch.setattr(store.fs, "default_block_size", 100_000)
    content = os.urandom(1_000_000)
    store.put("big", content)
    faulty_s3.methods = ("GET",)
    for read in (store.read, lambda name: copied(store, name), lambda name: opened(store, name)):
        faulty_s3.faults.extend([None, None, "truncate"] * 5)
        assert read("big") == content
        faulty_s3.faults.clear()


@pytest.mark.parametrize("fault", ["503", "403", "away"])
def test_a_store_that_cannot_tell_is_not_taken_for_an_empty_one(faulty_s3, fault, monkeypatch):
    monkeypatch.setattr("curate.store._ATTEMPTS", 2)
    store = Store("s3://bucket/run")
    store.put("run.json", b"{}")
    if fault == "away":
        store = Store("s3://bucket/run", "http://127.0.0.1:1")
    else:
        faulty_s3.always = fault
    asked: list[Callable[[], object]] = [
        lambda: store.exists("run.json"),
        store.kind,
        lambda: store.names(""),
        store.entries,
        store.folders,
        lambda: store.create("other.json", b"{}"),
        lambda: store.delete("run.json"),
        lambda: store.read("run.json"),
        lambda: Folder.all_in(store),
        lambda: Folder(store, "fetch", "0123").is_done(),
        lambda: Folder(store, "fetch", "0123").units(),
        lambda: Remembered.of(store),
    ]
    for ask in asked:
        with pytest.raises(StoreError, match=r"^s3://bucket/run cannot be read: "), store.accessible():
            ask()


def test_a_creation_whose_answer_was_lost_is_this_calls_own(faulty_s3):
    faulty_s3.conditional = True
    store = Store("s3://bucket/run")
    assert store.check_writable() == ""
    faulty_s3.methods = ("PUT",)
    faulty_s3.faults.append("reset_after")
    assert store.create("done/000001.json", b"first")
    assert not store.create("done/000001.json", b"second")
    # Two writers that found the name free: the server refuses the second, whose bytes differ.
    assert not store._create("done/000001.json", b"second")
    assert store.read("done/000001.json") == b"first"


@settings(max_examples=200)
@given(st.data())
def test_a_table_with_a_changed_byte_is_never_read_as_another_table(tmp_path_factory, data):
    """Checksums cover the pages; the footer, by which pages are found, has none, and `verify` compares whole files."""
    store = Store(str(tmp_path_factory.mktemp("run")))
    written = pa.table({"n": list(range(400)), "text": [f"caption {n % 7}" for n in range(400)]})
    out = Folder(store, "p", "0").outputs(3)
    info = out.put_table("t.parquet", written)
    out.commit()
    path = Path(store.path(f"{out.folder.path}/{info.name}"))
    stored = bytearray(path.read_bytes())
    footer = len(stored) - 8 - int.from_bytes(stored[-8:-4], "little")
    place = data.draw(st.integers(4, footer - 1))
    stored[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(stored)
    with contextlib.suppress(BrokenResult):
        assert out.folder.table("t.parquet", 3).equals(written)
