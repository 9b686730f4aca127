"""A round: lost rows again, everything else copied over."""

import pytest
from helpers.fetch_part import fetched, members, part
from helpers.fetch_samples import drawing, encoded, section
from helpers.hostile_server import HostileServer, ok, status

from curate import schema
from curate.errors import BrokenResult
from curate.fetch.retry_round import open_worker as open_round
from curate.fetch.worker import open_worker
from curate.store import Folder, Inputs, Store

PICTURES = {f"/{n}.jpg": encoded(drawing(60 + n, 40, seed=n), quality=90) for n in range(12)}


@pytest.fixture
def first(tmp_path):
    """A server on which some pictures fail, and the fetch of them."""
    with HostileServer() as server:
        for number, (path, picture) in enumerate(PICTURES.items()):
            server.answers[path] = {1: status(500), 2: status(404)}.get(number % 4, ok(picture))
        store = Store(str(tmp_path))
        inputs = part(store, [server.url(path) for path in PICTURES])
        folder = fetched(open_worker(section(allow=[server.address], timeout=20.0)), store, inputs)
        yield server, store, inputs, folder


def next_round(first, classes, before=None, name="again"):
    server, store, inputs, folder = first
    worker = open_round({**section(allow=[server.address], timeout=20.0), "classes": classes})
    both = Inputs({"plan": inputs["plan"], "before": before or folder}, [0])
    return fetched(worker, store, both, name)


def rows(folder):
    return {row["image_id"]: row for row in folder.table("images.parquet", 0).to_pylist()}


def test_only_the_named_classes_are_asked_for_again_and_the_rest_is_copied(first):
    server, store, _, folder = first
    before, bytes_before = rows(folder), store.read(folder.file("images.tar", 0))
    server.answers |= {path: ok(picture) for path, picture in PICTURES.items()}
    server.asked.clear()
    again = next_round(first, ["http_5xx", "dns"])
    after = rows(again)
    assert sorted(asked.split()[1].decode() for asked in server.asked) == ["/1.jpg", "/5.jpg", "/9.jpg"]
    assert list(after) == list(before)
    for image_id, row in after.items():
        if before[image_id]["error_class"] == "http_5xx":
            assert row["status"] == schema.FETCHED
        else:
            assert row == before[image_id]
    stored = {info.name: data for info, data in members(again)}
    assert list(stored) == [row["file"] for row in after.values() if row["file"]]
    assert stored.items() >= {info.name: data for info, data in members(folder)}.items()
    counts = again.marker(0).counts
    assert (counts["images"], counts["success"], counts["retried"], counts["recovered"]) == (12, 9, 3, 3)
    assert counts["error:http_4xx"] == 3
    assert "error:http_5xx" not in counts
    assert store.read(folder.file("images.tar", 0)) == bytes_before


def test_what_fails_again_has_its_new_reason_and_a_round_follows_a_round(first):
    server, _, _, _ = first
    server.answers["/1.jpg"] = status(410)
    server.answers["/5.jpg"] = ok(PICTURES["/5.jpg"])
    again = next_round(first, ["http_5xx"])
    row = rows(again)[schema.image_id(server.url("/1.jpg"))]
    assert (row["error_class"], row["http_status"]) == ("http_4xx", 410)
    server.answers |= {path: ok(picture) for path, picture in PICTURES.items()}
    third = next_round(first, ["http_4xx", "http_5xx"], again, "third")
    whole = fetched(open_worker(section(allow=[server.address], timeout=20.0)), first[1], first[2], "whole")
    assert third.store.read(third.file("images.tar", 0)) == whole.store.read(whole.file("images.tar", 0))
    one, other = (each.table("images.parquet", 0).drop_columns("milliseconds") for each in (third, whole))
    assert one.equals(other)


def test_a_round_with_nothing_to_do_gives_the_same_files(first):
    _, store, _, folder = first
    again = next_round(first, ["dns"])
    assert store.read(again.file("images.tar", 0)) == store.read(folder.file("images.tar", 0))
    assert store.read(again.file("images.parquet", 0)) == store.read(folder.file("images.parquet", 0))


@pytest.mark.parametrize("fault", ["rows", "pictures"])
def test_a_round_before_that_is_broken_is_refused(first, fault):
    _, store, _, folder = first
    broken = Folder(store, "broken", "x")
    out = broken.outputs(0)
    table = folder.table("images.parquet", 0)
    out.put_table("images.parquet", table.slice(1) if fault == "rows" else table)
    out.put("images.tar", b"\0" * 10240)
    out.commit()
    with pytest.raises(BrokenResult):
        next_round(first, ["dns"], broken)
