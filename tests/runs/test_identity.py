"""Whose a run folder is: nobody's until a plan is done, then that source's for good."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers.sample_run import write_tar

from curate import flow, recipe
from curate.commands.main import main
from curate.commands.progress import watch
from curate.engine.local import LocalEngine
from curate.errors import IdentityError
from curate.layout import plan_folder
from curate.prepare import as_now, prepare
from curate.runs.identity import placeless
from curate.runs.options import Options
from curate.store import Folder, Store

ROWS = 40


def write_list(path, rows=ROWS):
    urls = [f"http://host.example/{number}.jpg" for number in range(rows)]
    pq.write_table(pa.table({"url": urls, "caption": urls}), path, compression="none")


def break_list(path):
    """Its footer still says which columns there are; what is wrong with its rows shows where they are read."""
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)


@pytest.fixture
def made(tmp_path):
    """A recipe over one list, and its run's place."""
    write_list(tmp_path / "list.parquet")
    content = {
        "version": 1,
        "source": {"paths": [str(tmp_path / "list.parquet")]},
        "output": str(tmp_path / "run"),
        "part_size": 10,
        "select": [{"drop": "small", "where": "width < 3"}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    return tmp_path, Store(str(tmp_path / "run"))


def command(folder, *more):
    return ["run", str(folder / "recipe.yaml"), "--engine", "local", "--until", "plan", *more]


def plan(prepared):
    """Runs what `curate run --until plan` does after its checks."""
    from rich.console import Console

    engine, watcher = LocalEngine(), watch(Console(quiet=True))
    try:
        return flow.run(prepared, engine, watcher, Options(until="plan", engine="local"))
    finally:
        watcher.close()
        engine.close()


def plans(store):
    return [Folder.at(store, name) for name in store.folders() if name.startswith("plan-")]


def planned_from(store):
    """The plan that the run folder is bound to."""
    (bound,) = [
        folder
        for folder in plans(store)
        if store.read_json(f"{folder.path}/pass.json")["params"] == placeless(store.read_json("run.json"))
    ]
    return bound


def test_a_source_that_broke_the_plan_can_be_corrected_in_place(made, capsys):
    folder, store = made
    break_list(folder / "list.parquet")
    assert main(command(folder)) == 2
    assert "list.parquet cannot be read" in capsys.readouterr().err
    assert main(["status", store.url]) == 0
    assert "not planned yet" in capsys.readouterr().out

    write_list(folder / "list.parquet")
    assert main(command(folder)) == 0
    bound = planned_from(store)
    assert bound.marker().counts["rows"] == ROWS
    capsys.readouterr()
    assert main(["status", store.url]) == 0
    said = capsys.readouterr().out
    (failed,) = [other.path for other in plans(store) if other != bound]
    assert "parts    4" in said
    assert f"{failed}  0 of 4 parts  (of another source)" in said
    assert f"{bound.path}  done\n" in said

    # From here on the folder is that source's.
    write_list(folder / "list.parquet", ROWS + 1)
    assert main(command(folder)) == 2
    assert "holds a run with another source" in capsys.readouterr().err
    assert planned_from(store) == bound


def test_a_plan_that_was_killed_binds_nothing(made):
    folder, store = made
    driver = subprocess.Popen(
        [sys.executable, "-m", "curate.commands.main", *command(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not any(store.exists(f"{found.path}/pass.json") for found in plans(store)):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert not store.exists("run.json")
    write_list(folder / "list.parquet", 30)
    assert main(command(folder)) == 0
    assert planned_from(store).marker().counts["rows"] == 30


def test_a_driver_that_dies_between_its_plan_and_its_claim_plans_no_second_time(made, monkeypatch):
    folder, store = made

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(flow, "claim", die)
        assert main(command(folder)) == 130
    (done,) = plans(store)
    before = done.marker()
    assert not store.exists("run.json")
    assert main(command(folder)) == 0
    assert planned_from(store).marker() == before


def test_of_two_drivers_with_different_sources_the_first_plan_wins(made, monkeypatch):
    folder, store = made
    first = prepare(recipe.load(folder / "recipe.yaml", []))
    # The other one begins while nobody has claimed the folder, and ends later.
    write_list(folder / "list.parquet", 30)
    second = prepare(recipe.load(folder / "recipe.yaml", ["fetch.quality=80"]))
    write_list(folder / "list.parquet")
    plan(first)
    bound, said = planned_from(store), store.read("recipe.json")
    write_list(folder / "list.parquet", 30)
    with pytest.raises(IdentityError, match="holds a run with another source"):
        plan(second)
    assert planned_from(store) == bound
    assert store.read("recipe.json") == said
    write_list(folder / "list.parquet")
    assert main(command(folder)) == 0


def test_a_plan_cut_off_among_its_parts_goes_on_or_gives_way(made):
    """Parts of a plan that never became whole belong to no run."""
    folder, store = made
    assert main(command(folder)) == 0
    bound = planned_from(store)
    kept = bound.marker(2)
    for name in ("run.json", "recipe.json", f"{bound.path}/done/all.json", f"{bound.path}/done/000003.json"):
        store.delete(name)
    assert main(command(folder)) == 0
    assert planned_from(store) == bound
    assert bound.marker(2) == kept
    assert bound.units() == {-1, 0, 1, 2, 3}


def test_a_source_is_what_it_is_wherever_it_lies_and_however_it_is_written(made, monkeypatch, capsys):
    folder, store = made
    assert main(command(folder)) == 0
    bound, marker = planned_from(store), planned_from(store).marker()
    moved = folder / "moved"
    moved.mkdir()
    shutil.copy(folder / "list.parquet", moved)
    (folder / "link").symlink_to(folder)
    monkeypatch.chdir(moved)
    for path in (
        "list.parquet",
        "../list.parquet",
        f"{folder}/./moved/../list.parquet",
        f"file://{folder}/list.parquet",
        f"{folder}/list.*",
        f"{folder}/link/list.parquet",
        str(moved),
    ):
        assert main(command(folder, "--set", f"source.paths=[{json.dumps(path)}]")) == 0, path
        assert plans(store) == [bound], path
    assert planned_from(store).marker() == marker

    # By two of its names a list is still one.
    both = json.dumps(["list.parquet", f"file://{moved}/list.parquet"])
    assert main(command(folder, "--set", f"source.paths={both}")) == 0
    assert plans(store) == [bound]

    (moved / "list.parquet").rename(moved / "other.parquet")
    capsys.readouterr()
    assert main(command(folder, "--set", "source.paths=[other.parquet]")) == 2
    assert "holds a run with another source;" in capsys.readouterr().err
    write_list(moved / "list.parquet", ROWS + 1)
    assert main(command(folder, "--set", "source.paths=[list.parquet]")) == 2
    assert "list.parquet changed since this run began" in capsys.readouterr().err


def test_fingerprints_of_a_plan_are_frozen(tmp_path):
    """A change of these lets every run plan, and fetch, anew."""
    (tmp_path / "list.csv").write_text("url,caption\nhttp://host.example/1.jpg,a caption\n")
    write_tar(tmp_path / "shard.tar", [("1.jpg", b"jpg"), ("1.txt", b"a caption")])
    found = {}
    for name, source in (
        ("lists", {"paths": [str(tmp_path / "list.csv")]}),
        ("samples", {"kind": "samples", "paths": [str(tmp_path / "shard.tar")]}),
    ):
        content = {"version": 1, "source": source, "output": str(tmp_path / "run")}
        found[name] = plan_folder(prepare(recipe.parse(content))).path
    assert found == {"lists": "plan-b9ae872134ef", "samples": "plan-0f54d1c4fda2"}


def test_an_identity_without_names_is_read_as_one_with_them():
    """As releases before had them."""
    for source, names in (
        ({}, ["a.csv", "a.csv"]),
        ({"kind": "samples"}, ["x/a.csv", "y/a.csv"]),
    ):
        files = [{"path": path, "size": 1, "etag": "e"} for path in ("in/x/a.csv", "/abs/y/a.csv")]
        stored = {"source": files, "columns": source, "seed": 0, "part_size": 10}
        assert [file["name"] for file in as_now(stored)["source"]] == names
        assert as_now(as_now(stored)) == as_now(stored)
