"""The stage, from a part's plan to its tar and table."""

import hashlib
import io
import os
import socket
import subprocess
import sys
import urllib.request
from typing import Any

import pyarrow as pa
import pytest
from helpers.c2pa_boxes import assertion, in_jpeg
from helpers.c2pa_boxes import store as store_of
from helpers.embed_parts import draw
from helpers.fetch_part import fetched, members, part
from helpers.fetch_samples import decoded, difference, drawing, encoded, section
from helpers.hostile_server import HostileServer, endless, head, never, ok, raw, redirect, status, trickle

from curate import phash, schema
from curate.errors import BrokenResult, RecipeError, UsageError
from curate.fetch import downloader as downloader_module
from curate.fetch.contract import FetchError, Received
from curate.fetch.downloader import Img2dataset
from curate.fetch.part import distinct_images
from curate.fetch.pictures import phash_blocklist
from curate.fetch.pictures.blocklist import read
from curate.fetch.pictures.normalise import Normaliser
from curate.fetch.polite.hosts import Hosts
from curate.fetch.polite.part_queue import PartQueue
from curate.fetch.settings import Settings
from curate.fetch.worker import open_worker
from curate.store import Store

PICTURES = {f"/{n}.jpg": drawing(60 + n, 40 + 2 * n, seed=n) for n in range(20)}


@pytest.fixture(scope="module")
def server():
    with HostileServer() as running:
        for path, picture in PICTURES.items():
            running.answers[path] = ok(encoded(picture, quality=90))
        running.answers |= {
            "/big.png": ok(encoded(drawing(500, 300), "PNG")),
            "/moved.jpg": redirect("/1.jpg"),
            "/never.jpg": never,
            "/trickle.jpg": trickle(head(200, "Content-Length: 100000"), b"x"),
            "/endless.jpg": endless(head(200)),
            "/short.jpg": raw(head(200, "Content-Length: 5000") + b"\xff\xd8\xff"),
            "/optout.jpg": ok(b"", "X-Robots-Tag: noai"),
            "/gzip.jpg": ok(b"x", "Content-Encoding: gzip"),
            "/page.jpg": ok(b"<!DOCTYPE html><html></html>"),
            "/cut.jpg": ok(encoded(drawing())[:600]),
            "/bomb.png": ok(encoded(drawing(), "PNG").replace(b"\0\0\0\x60\0\0\0\x40", b"\0\1\0\0\0\1\0\0")),
            "/500.jpg": status(500),
            "/file.jpg": redirect("file:///etc/passwd"),
            "/inside.jpg": redirect("http://169.254.169.254/"),
            "/loop.jpg": redirect("/loop.jpg"),
        }
        yield running


@pytest.fixture(scope="module")
def urls(server):
    """Every kind of end, with the class it must have; None for a picture."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()[1]
    ends = {server.url(path): None for path in [*PICTURES, "/big.png", "/moved.jpg"]}
    ends |= {
        server.url(f"/{path}"): error_class
        for path, error_class in {
            "never.jpg": "timeout",
            "trickle.jpg": "timeout",
            "endless.jpg": "too_large",
            "short.jpg": "connection",
            "optout.jpg": "opt_out",
            "gzip.jpg": "encoding",
            "page.jpg": "not_an_image",
            "cut.jpg": "undecodable",
            "bomb.png": "too_large",
            "missing.jpg": "http_4xx",
            "500.jpg": "http_5xx",
            "file.jpg": "bad_url",
            "inside.jpg": "blocked_address",
            "loop.jpg": "redirect",
        }.items()
    }
    return ends | {
        "": "bad_url",
        "file:///etc/passwd": "bad_url",
        "ftp://127.0.0.1/x.jpg": "bad_url",
        "data:image/png;base64,AAAA": "bad_url",
        f"http://127.0.0.1:{closed}/x.jpg": "blocked_address",
        f"http://127.0.0.2:{server.port}/1.jpg": "blocked_address",
        "http://unknown.invalid/x.jpg": "dns",
        "http://a\x1b[31m.example/x.jpg": "bad_url",
        f"http://example.org/{'x' * 100_000}": "bad_url",
    }


@pytest.fixture(scope="module")
def run(server, urls, tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("run")))
    inputs = part(store, urls)
    worker = open_worker(section(allow=[server.address], timeout=3.0))
    return worker, store, inputs, fetched(worker, store, inputs)


def test_every_image_has_one_row_and_its_class(run, urls):
    _, _, _, folder = run
    table = folder.table("images.parquet", 0)
    assert table.schema.equals(schema.IMAGES)
    rows = table.to_pylist()
    assert [row["image_id"] for row in rows] == sorted(schema.image_id(url) for url in urls)
    expected = {schema.image_id(url): error_class for url, error_class in urls.items()}
    assert {row["image_id"]: row["error_class"] for row in rows} == expected
    for row in rows:
        good = row["error_class"] is None
        assert row["status"] == (schema.FETCHED if good else "failed")
        assert (row["file"] is not None) == (row["width"] is not None) == (row["error"] is None) == good
        assert (row["sha256"] is None) == (row["bytes"] is None)
        assert row["milliseconds"] is not None
        assert row["error"] is None or row["error"].isprintable()


def test_the_tar_holds_the_successes_in_order(run):
    _, _, _, folder = run
    rows = [row for row in folder.table("images.parquet", 0).to_pylist() if row["file"]]
    stored = members(folder)
    assert [info.name for info, _ in stored] == [row["file"] for row in rows]
    assert [info.name for info, _ in stored] == sorted(f"{row['image_id'].hex()}.jpg" for row in rows)
    for row, (info, data) in zip(rows, stored, strict=True):
        assert (info.mtime, info.uid, info.gid, info.uname, info.mode) == (0, 0, 0, "", 0o644)
        assert decoded(data).size == (row["width"], row["height"])


def test_pictures_are_the_ones_that_were_served(run, server):
    _, _, _, folder = run
    stored = {info.name: data for info, data in members(folder)}
    for path, picture in {**PICTURES, "/moved.jpg": PICTURES["/1.jpg"]}.items():
        assert difference(decoded(stored[f"{schema.image_id(server.url(path)).hex()}.jpg"]), picture) < 4


def test_the_ledger(run, server):
    _, _, _, folder = run
    rows = {row["image_id"]: row for row in folder.table("images.parquet", 0).to_pylist()}
    body = encoded(drawing(500, 300), "PNG")
    row = rows[schema.image_id(server.url("/big.png"))]
    assert row["sha256"] == hashlib.sha256(body).hexdigest()
    assert (row["bytes"], row["http_status"], row["host"]) == (len(body), 200, "127.0.0.1")
    assert (row["original_width"], row["original_height"], row["width"], row["height"]) == (500, 300, 128, 77)
    inside = rows[schema.image_id(server.url("/inside.jpg"))]
    assert (inside["http_status"], inside["host"]) == (302, "169.254.169.254")
    page = rows[schema.image_id(server.url("/page.jpg"))]
    assert page["sha256"] == hashlib.sha256(b"<!DOCTYPE html><html></html>").hexdigest()


def test_counts(run, urls):
    _, _, _, folder = run
    counts = folder.marker(0).counts
    errors = {name: count for name, count in counts.items() if name.startswith("error:")}
    assert counts["images"] == len(urls)
    assert counts["success"] == len(PICTURES) + 2
    assert counts["failed"] == sum(errors.values()) == counts["images"] - counts["success"]
    assert counts["bytes"] == sum(row["bytes"] or 0 for row in folder.table("images.parquet", 0).to_pylist())


def test_a_second_fetch_gives_the_same_bytes(run):
    worker, store, inputs, folder = run
    again = fetched(worker, store, inputs, "again")
    assert store.read(again.file("images.tar", 0)) == store.read(folder.file("images.tar", 0))
    one, other = (each.table("images.parquet", 0).drop_columns("milliseconds") for each in (folder, again))
    assert one.equals(other)


def test_a_part_in_little_memory_and_few_turns_comes_out_the_same(run, server, tmp_path):
    """Bodies wait for memory one by one; nothing deadlocks, and a listed one is in neither tar nor ledger."""
    _, _, _, folder = run
    store = Store(str(tmp_path))
    listed = hashlib.sha256(encoded(PICTURES["/3.jpg"], quality=90)).hexdigest()
    (tmp_path / "bad").write_text(listed)
    changes = {"blocklists": [str(tmp_path / "bad")], "blocked": read([str(tmp_path / "bad")]).fingerprint}
    worker = open_worker(section(allow=[server.address], timeout=20.0, waiting_bytes=1, threads=1, **changes))
    inputs = part(store, [server.url(path) for path in PICTURES])
    again = fetched(worker, store, inputs)
    rows = {row["image_id"]: row for row in again.table("images.parquet", 0).to_pylist()}
    bad = rows.pop(schema.image_id(server.url("/3.jpg")))
    assert (bad["status"], bad["error_class"], bad["file"], bad["sha256"]) == ("failed", "blocked_digest", None, None)
    assert {row["error_class"] for row in rows.values()} == {None}
    assert again.marker(0).counts["error:blocked_digest"] == 1
    assert [info.name for info, _ in members(again)] == [row["file"] for row in rows.values()]
    before = {info.name: data for info, data in members(folder)}
    assert all(before[info.name] == data for info, data in members(again))


def test_a_blocklist_that_changed_during_the_run_stops_it(tmp_path):
    (tmp_path / "bad").write_text("0" * 64)
    with pytest.raises(RecipeError, match="changed during the run"):
        open_worker(section(blocklists=[str(tmp_path / "bad")], blocked="0123"))


def test_a_copy_of_a_listed_picture_is_not_stored(server, tmp_path):
    """Other bytes under other URLs; the rest of the part comes out as it would without a list."""
    original = draw(1, (320, 240))
    server.answers |= {
        "/original.jpg": ok(encoded(original, quality=90)),
        "/copy.webp": ok(encoded(original, "WEBP", quality=80)),
        "/half.png": ok(encoded(original.resize((160, 120)), "PNG")),
        "/other.jpg": ok(encoded(draw(2, (320, 240)), quality=90)),
    }
    paths = ["/original.jpg", "/copy.webp", "/half.png", "/other.jpg", "/4.jpg"]
    inputs = part(Store(str(tmp_path)), [server.url(path) for path in paths])
    usual = {"allow": [server.address], "timeout": 20.0}
    everything = fetched(open_worker(section(**usual)), Store(str(tmp_path)), inputs, "fetch-all")
    before = {info.name: data for info, data in members(everything)}
    names = {row["image_id"]: row["file"] for row in everything.table("images.parquet", 0).to_pylist()}
    listed = phash.of_stored(before[names[schema.image_id(server.url("/original.jpg"))]])
    (tmp_path / "near").write_text(f"{listed}  a picture\n")
    lists: dict[str, Any] = {"phash_blocklists": [str(tmp_path / "near")]}
    lists["blocked_phash"] = phash_blocklist.read([str(tmp_path / "near")], 4).fingerprint
    folder = fetched(open_worker(section(**usual, **lists)), Store(str(tmp_path)), inputs)
    rows = {row["image_id"]: row for row in folder.table("images.parquet", 0).to_pylist()}
    found = {path: rows[schema.image_id(server.url(path))] for path in paths}
    refused = {path for path, row in found.items() if row["error_class"] == "blocked_phash"}
    assert refused == {"/original.jpg", "/copy.webp", "/half.png"}
    assert all(listed in found[path]["error"] and found[path]["file"] is None for path in refused)
    after = {info.name: data for info, data in members(folder)}
    assert after == {row["file"]: before[row["file"]] for path, row in found.items() if path not in refused}
    assert folder.marker(0).counts["error:blocked_phash"] == 3
    (tmp_path / "near").write_text("0" * 16)
    with pytest.raises(RecipeError, match=r"fetch\.phash_blocklists: they changed during the run"):
        open_worker(section(**lists))


def test_a_part_that_does_not_end_is_cut_and_completed(server, tmp_path):
    store = Store(str(tmp_path))
    urls = [server.url(f"/{name}.jpg?{n}") for name in ("never", "trickle", "1") for n in range(20)]
    worker = open_worker(section(allow=[server.address], timeout=600.0, part_timeout=3.0, threads=2))
    table = fetched(worker, store, part(store, urls)).table("images.parquet", 0)
    assert table.num_rows == 60
    # On a busy machine the good ones may not be there in time either.
    assert set(table["error_class"].to_pylist()) <= {None, "deadline"}
    assert table["error_class"].to_pylist().count("deadline") >= 40


def test_an_empty_part(run, tmp_path):
    worker, _, _, _ = run
    store = Store(str(tmp_path))
    folder = fetched(worker, store, part(store, []))
    assert folder.table("images.parquet", 0).num_rows == 0
    assert members(folder) == []
    assert folder.marker(0).counts == {"images": 0, "success": 0, "failed": 0, "bytes": 0}


@pytest.mark.usefixtures("run")
def test_nothing_stays_attached(server):
    assert downloader_module._imported().download_image.__module__ == "img2dataset.downloader"
    with urllib.request.urlopen(server.url("/1.jpg")) as answer:
        assert answer.status == 200


def test_a_worker_that_is_killed_leaves_no_folders_of_its_libraries(tmp_path):
    code = "import os; from curate.fetch import downloader; downloader._imported(); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_that_forbids_training_is_obeyed_before_resizing(server, tmp_path):
    server.answers["/reserved.jpg"] = ok(in_jpeg(store_of(assertion())))
    inputs = part(Store(str(tmp_path)), [server.url("/reserved.jpg"), server.url("/1.jpg")])
    for c2pa, stored in ((True, 1), (False, 2)):
        worker = open_worker(section(allow=[server.address], timeout=20.0, c2pa=c2pa))
        folder = fetched(worker, Store(str(tmp_path)), inputs, f"fetch-{stored}")
        assert len(members(folder)) == stored
        rows = folder.table("images.parquet", 0).to_pylist()
        named = [row["error"] for row in rows if row["error_class"] == "opt_out"]
        assert named == ["C2PA: cawg.training-mining: cawg.ai_generative_training is notAllowed"] * (2 - stored)


def test_a_plan_out_of_order_is_refused():
    table = pa.table({"image_id": pa.array([b"b" * 16, b"a" * 16], schema.ID), "url": ["b", "a"]})
    with pytest.raises(BrokenResult):
        distinct_images(table)


def test_a_full_disk_fails_the_part(run, tmp_path):
    worker, _, inputs, _ = run

    class FullSpool:
        def add(self, position, picture):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        worker._fetch_part(inputs["plan"].table("pairs.parquet", 0)["url"].to_pylist()[:60], FullSpool(), tmp_path)


def refuse(request):
    raise FetchError("blocked_address", request.url)


def unlimited(urls):
    return PartQueue(urls, Hosts(100, None, 10), lambda url: ("a.example", 80))


def refusing():
    return Img2dataset(unlimited, refuse, Normaliser(Settings.of(section())), threads=1, timeout=1.0)


def test_a_release_that_goes_around_the_guard_is_refused(monkeypatch):
    module = downloader_module._imported()
    assert refusing()
    monkeypatch.setattr(module, "download_image", lambda row, *_, **__: (row[0], None, "not ours"))
    with pytest.raises(UsageError):
        refusing()


def test_bytes_that_did_not_come_through_the_guard_are_dropped(tmp_path, monkeypatch):
    guarded, picture = refusing(), encoded(drawing())
    module = downloader_module._imported()
    monkeypatch.setattr(module, "download_image", lambda row, *_, **__: (row[0], io.BytesIO(picture), None))
    (outcome,) = guarded(["http://example.org/x.jpg"], None, tmp_path)
    assert (outcome.stored, outcome.error_class) == (False, "internal")


def test_what_a_stranger_breaks_inside_is_internal(tmp_path, capfd):
    def broken(data):
        raise ZeroDivisionError

    def get(request):
        if "0.0.0.0" in request.url:
            raise FetchError("blocked_address", request.url)
        return Received(b"x", 200, "example.org")

    fetch_part = Img2dataset(unlimited, get, broken, threads=2, timeout=1.0)
    outcomes = fetch_part([f"http://a/{n}" for n in range(5)], None, tmp_path)
    assert [outcome.error_class for outcome in outcomes] == ["internal"] * 5
    assert "ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.parametrize("agent", ["two\r\nlines", "ünsendable"])
def test_an_agent_that_cannot_be_sent(agent):
    with pytest.raises(RecipeError):
        open_worker(section(agent=agent))
