"""Images whose bytes are not those that the list expects: `changed`, dropped or kept; in a round, too."""

import hashlib

import pyarrow as pa
import pytest
from helpers.fetch_part import members
from helpers.fetch_samples import drawing, encoded, section
from helpers.hostile_server import HostileServer, ok

from curate import schema
from curate.fetch.contract import FetchError
from curate.fetch.pictures.expected import Expected, of_images
from curate.fetch.retry_round import open_worker as open_round
from curate.fetch.worker import open_worker
from curate.store import Folder, Inputs, Store

BODIES = {f"/{n}.jpg": encoded(drawing(60 + n, 40, seed=n)) for n in range(5)}


def sha256(body):
    return hashlib.sha256(body).hexdigest()


def md5(body):
    return hashlib.md5(body).hexdigest()


@pytest.fixture
def server():
    with HostileServer() as running:
        running.answers |= {path: ok(body) for path, body in BODIES.items()}
        yield running


@pytest.fixture
def plan(server, tmp_path):
    """Five images: as expected by sha256, changed, no expectation, changed by md5, expected by one of two rows."""
    good = [BODIES[f"/{n}.jpg"] for n in range(5)]
    rows = [
        ("/0.jpg", sha256(good[0]), None),
        ("/1.jpg", sha256(good[0]), None),
        ("/2.jpg", None, None),
        ("/3.jpg", sha256(good[3]), md5(good[0])),
        ("/4.jpg", sha256(good[0]), None),
        ("/4.jpg", None, md5(good[4])),
    ]
    urls = [server.url(path) for path, _, _ in rows]
    table = pa.table(
        {
            "image_id": pa.array([schema.image_id(url) for url in urls], schema.ID),
            "url": urls,
            "expected_sha256": pa.array([row[1] for row in rows], pa.string()),
            "expected_md5": pa.array([row[2] for row in rows], pa.string()),
        }
    ).sort_by("image_id")
    folder = Folder(Store(str(tmp_path)), "plan", "0")
    unit = folder.outputs(0)
    unit.put_table("pairs.parquet", table)
    unit.commit()
    return folder


def run(open_worker, settings, tmp_path, name, **inputs):
    folder = Folder(Store(str(tmp_path)), name, "0")
    out = folder.outputs(0)
    open_worker(settings)(0, Inputs(inputs, (0,)), {"fetch": out})
    out.commit()
    return folder, out


def classes(server, folder):
    table = folder.table("images.parquet", 0)
    found = dict(zip(table["image_id"].to_pylist(), table["error_class"].to_pylist(), strict=True))
    return [found[schema.image_id(server.url(path))] for path in BODIES]


def test_changed_images_fail_and_a_round_checks_them_again(server, plan, tmp_path):
    settings = section(allow=[server.address], timeout=20.0, expects=list(schema.EXPECTED))
    folder, out = run(open_worker, settings, tmp_path, "fetch", plan=plan)
    assert classes(server, folder) == [None, "changed", None, "changed", None]
    assert (out.counts["error:changed"], out.counts["success"]) == (2, 3)
    assert len(members(folder)) == 3
    messages = [text for text in folder.table("images.parquet", 0)["error"].to_pylist() if text]
    assert sorted(message.split(" is not")[0] for message in messages) == ["its md5", "its sha256"]
    server.answers["/1.jpg"] = ok(BODIES["/0.jpg"])
    again, out = run(open_round, {**settings, "classes": ["changed"]}, tmp_path, "again", plan=plan, before=folder)
    assert classes(server, again) == [None, None, None, "changed", None]
    assert out.counts["recovered"] == 1


def test_changed_images_may_be_kept_and_are_counted(server, plan, tmp_path):
    settings = section(allow=[server.address], timeout=20.0, changed="keep", expects=list(schema.EXPECTED))
    folder, out = run(open_worker, settings, tmp_path, "fetch", plan=plan)
    assert classes(server, folder) == [None] * 5
    assert (out.counts["changed"], out.counts["success"]) == (2, 5)
    assert any("2 images differ from the list's digests and were kept" in note for note in out.notes)


def test_bytes_agree_with_one_row_in_all_of_its_digests():
    rows = pa.table(
        {
            "image_id": pa.array([b"a" * 16] * 2 + [b"b" * 16], schema.ID),
            "expected_md5": pa.array([md5(b"1"), md5(b"2"), None], pa.string()),
            "expected_sha256": pa.array([sha256(b"1"), sha256(b"1"), None], pa.string()),
        }
    )
    first, second = of_images(rows)
    first.check(b"1", sha256(b"1"))
    second.check(b"anything", sha256(b"anything"))
    with pytest.raises(FetchError) as error:
        first.check(b"2", sha256(b"2"))
    assert error.value.error_class == "changed"
    Expected().check(b"", "")
