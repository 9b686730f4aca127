"""Whose a run folder is: nobody's until a plan is done, then that source's for good."""

import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from curate import flow, recipe
from curate.commands.main import main
from curate.commands.progress import watch
from curate.engine.local import LocalEngine
from curate.errors import IdentityError
from curate.prepare import prepare
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
    return [Folder(store, *name.rsplit("-", 1)) for name in store.folders() if name.startswith("plan-")]


def planned_from(store):
    """The plan that the run folder is bound to."""
    (bound,) = [
        folder
        for folder in plans(store)
        if store.read_json(f"{folder.path}/pass.json")["params"] == store.read_json("run.json")
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
