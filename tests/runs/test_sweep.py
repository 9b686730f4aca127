"""What interrupted starts left is deleted once its unit is done, and nothing else."""

import os
import time

import pytest
from helpers.inline_engine import InlineEngine
from helpers.works import Silent, single

from curate.report.worker import open_worker
from curate.runs.driver import drive
from curate.runs.sweep import AGE, sweep, sweep_root
from curate.store import WHOLE, Folder, Store


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Store(str(tmp_path / "run") if request.param == "local" else f"memory://{tmp_path.name}")


def lost(folder, unit, role="n.json"):
    """Writes a file as a start that is killed before its marker."""
    outputs = folder.outputs(unit)
    outputs.put(role, b"lost")
    return f"{folder.path}/{outputs.files[role].name}"


def everything(store):
    return set(store.ages(""))


def test_files_of_interrupted_starts_go_when_their_pass_is_done(store):
    work = single(store, "trouble", range(3))
    folder = work.outputs["out"].folder
    drive([work], InlineEngine(), Silent())
    clean = everything(store)
    other = single(Store(f"{store.url}-other"), "trouble", range(3))
    drive([other], InlineEngine(), Silent())
    assert len(everything(other.store)) == len(clean) == 7, "pass.json, three markers and three files"

    store.delete(folder.marker_name(1))
    litter = {lost(folder, 0), lost(folder, 1), lost(folder, 1), lost(folder, 2, "more.bin")}
    store.put(f"{folder.bookkeeping}/attempts/000002.1.json", b'{"session": "x"}')
    drive([work], InlineEngine(), Silent())
    assert work.done() == {0, 1, 2}
    left = everything(store)
    assert len(left) == len(clean)
    assert litter.isdisjoint(left)
    assert all(store.exists(folder.file("n.json", unit)) for unit in range(3))


def test_a_record_that_stayed_makes_the_next_command_sweep(store):
    """As where a command is killed after its last unit."""
    work = single(store, "trouble", range(2))
    drive([work], InlineEngine(), Silent())
    clean = everything(store)
    folder = work.outputs["out"].folder
    lost(folder, 1)
    store.put(f"{folder.bookkeeping}/attempts/000001.1.json", b'{"session": "x"}')
    drive([work], InlineEngine(), Silent())
    assert everything(store) == clean


def test_files_of_units_that_are_not_done_stay(store):
    work = single(store, "trouble", range(3), **{"raise": [2]})
    folder = work.outputs["out"].folder
    name = lost(folder, 2)
    drive([work], InlineEngine(), Silent())
    assert name in everything(store)
    assert store.names(f"{folder.bookkeeping}/failed") == ["000002.json"]
    assert store.names(f"{folder.bookkeeping}/attempts") == ["000002.1.json", "000002.2.json"]


def test_an_undisturbed_run_lists_nothing_to_sweep(store, monkeypatch):
    monkeypatch.setattr("curate.runs.driver.sweep", None)
    drive([single(store, "trouble", range(3))], InlineEngine(), Silent())
    drive([single(store, "trouble", range(3))], InlineEngine(), Silent())


def test_parts_of_a_whole_are_swept_with_it(store):
    folder = Folder(store, "plan", "0123")
    whole = folder.outputs()
    for unit in (0, 1):
        part = whole.part(unit)
        part.put("pairs.json", b"x")
        part.commit()
    litter = {lost(folder, unit, "pairs.json") for unit in (0, 1)}
    before = everything(store)
    assert sweep(folder, {1}, complete=False) == [name for name in sorted(litter) if "000001" in name]
    whole.commit()
    assert sweep(folder, {WHOLE}, complete=True) == [name for name in sorted(litter) if "000000" in name]
    assert everything(store) == (before - litter) | {folder.marker_name()}


def test_a_late_twin_may_still_write_and_commit(store):
    folder = Folder(store, "fetch", "0123")
    first, twin = folder.outputs(0), folder.outputs(0)
    twin.put("a.txt", b"twin")
    first.put("a.txt", b"first")
    first.commit()
    sweep(folder, {0}, complete=True)
    twin.put("b.txt", b"twin")
    assert twin.commit() == first.commit() == folder.marker(0)
    assert store.read(folder.file("a.txt", 0)) == b"first"
    assert len(sweep(folder, {0}, complete=True)) == 1


def test_a_result_loses_half_written_files_and_nothing_that_a_user_added(tmp_path):
    store = Store(str(tmp_path))
    folder = Folder(store, "pack", "0123", is_result=True)
    out = folder.outputs(0)
    out.put("shards/00000000.tar", b"tar", name="shards/00000000.tar")
    out.commit()
    kept = {"notes.md", "shards/extra.0123abcd.tar", ".gitattributes", ".huggingface.yaml"}
    for name in kept:
        store.put(f"{folder.path}/{name}", b"a user's")
    store.put(f"{folder.bookkeeping}/pass.json", b"{}")
    half = ["pack-0123/shards/.00000000.tar.0123abcd", "pack-0123.work/done/.000000.json.0123abcd"]
    young, old = "pack-0123.work/.pass.json.0123abcd", "pack-0123.work/.pass.json.89abcdef"
    for name in [*half, young, old]:
        (tmp_path / name).write_bytes(b"half")
    os.utime(tmp_path / old, (time.time() - AGE - 5,) * 2)
    assert sorted(sweep(folder, {0}, complete=True)) == sorted([*half, old])
    assert {name.removeprefix("pack-0123/") for name in store.ages(folder.path)} == kept | {"shards/00000000.tar"}
    assert (tmp_path / young).exists()


def test_the_run_folder_itself_is_swept(tmp_path):
    store = Store(str(tmp_path))
    store.put("manifest.json", b"{}")
    (tmp_path / "drivers").mkdir()
    for name in ("drivers/.000001.json.0123abcd", ".manifest.json.0123abcd", ".recipe.json.89abcdef", ".DS_Store"):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - AGE - 5,) * 2)
    (tmp_path / ".recipe.json.01234567").write_bytes(b"half")
    sweep_root(store)
    assert set(store.ages("")) == {"manifest.json", ".DS_Store", ".recipe.json.01234567"}


def test_files_on_s3_are_listed_and_swept(s3):
    store = Store("s3://bucket/a run")
    assert store.ages("fetch-0123") == {}
    folder = Folder(store, "fetch", "0123")
    done = folder.outputs(0)
    done.put("a.txt", b"first")
    done.commit()
    litter = [lost(folder, 0, "a.txt"), lost(folder, 0, "b.txt")]
    assert all(-60 < age < 60 for age in store.ages("").values())
    assert sorted(sweep(folder, {0}, complete=True)) == sorted(litter)
    assert set(store.ages("")) == {folder.marker_name(0), folder.file("a.txt", 0)}


def test_two_drivers_that_write_the_report_break_nothing(store, monkeypatch):
    """The page shows times, so the second driver's bytes differ from those that the first one's marker names."""
    pages = iter(["first", "second"])
    monkeypatch.setattr("curate.report.worker.Settings", lambda **_: None)
    monkeypatch.setattr("curate.report.worker.PairColumns.from_json", lambda _: None)
    monkeypatch.setattr("curate.report.worker.render", lambda *_: next(pages))
    folder = Folder(store, "report", "0123")
    first, second = folder.outputs(), folder.outputs()
    work = open_worker({})
    work(WHOLE, None, {"report": first})
    work(WHOLE, None, {"report": second})
    second.commit()
    first.commit()
    assert store.read(folder.file("index.html")) == b"second"
    assert len(sweep(folder, {WHOLE}, complete=True)) == 1
    assert store.read(folder.file("index.html")) == b"second"
