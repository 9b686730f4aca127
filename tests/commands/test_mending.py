"""What `verify` advises is enough: deleted as it says, the next run makes the result whole again."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from helpers.drawn_web import keep_top, write_recipe
from helpers.fetch_samples import picture
from helpers.hostile_server import HostileServer, ok

from curate.commands.main import main
from curate.commands.mending import to_delete
from curate.commands.verify import Fault, read_manifest, verify
from curate.errors import Exit
from curate.store import WHOLE, Folder, Store

pytestmark = pytest.mark.usefixtures("in_process")

ROWS = 24


@pytest.fixture(scope="module")
def made(tmp_path_factory, in_process):
    """A finished run over a server's pictures, two of them copies, with the recipe that made it."""
    folder = tmp_path_factory.mktemp("mending")
    with HostileServer() as server:
        server.answers["/1.jpg"] = ok(picture(0))
        recipe = write_recipe(
            folder,
            server,
            ROWS,
            part_size=8,
            signals={"concepts": {"grey": ["a grey drawing", "a red circle"]}},
            select=[
                keep_top("worst", 0.9),
                {"drop": "near", "duplicates": {"by": "image_embedding", "above": 0.99999}},
            ],
            pack={"shard_size": 5},
        )
        assert main(["run", str(recipe), "--engine", "local"]) == 0
        yield server, folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run, and how to go on with it."""
    server, folder = made
    shutil.copytree(folder / "run", tmp_path / "run")
    command = ["run", str(folder / "recipe.yaml"), "--engine", "local", "--set", f"output={tmp_path / 'run'}"]
    return server, Store(str(tmp_path / "run")), command


def folders(store):
    return {short: Folder.at(store, path) for short, path in store.read_json("manifest.json")["folders"].items()}


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def mended(store, command, capsys):
    """Follows the advice; returns what was deleted, and the lines after it."""
    capsys.readouterr()
    assert main(["verify", store.url, "--deep"]) == Exit.AT_FAULT
    advice = capsys.readouterr().out.splitlines()
    names = [line.strip() for line in advice if line.startswith(f"  {store.url}/")]
    for name in names:
        shutil.rmtree(name) if name.endswith("/") else Path(name).unlink()
    assert main(command) == 0
    capsys.readouterr()
    assert main(["verify", store.url, "--deep"]) == 0, capsys.readouterr().out
    return [name.removeprefix(f"{store.url}/") for name in names], advice


def test_what_is_computed_again_is_the_same_and_nothing_else_has_to_go(run, capsys):
    server, store, command = run
    before, asked = store.read_json("manifest.json"), len(server.asked)
    expected = []
    for short, folder in folders(store).items():
        if short == "fetch":
            continue
        unit = max(folder.units())
        if short == "pack":
            unit = 1
            damage(Path(store.url, folder.path, "shards", "00000001.tar"))
            Path(store.url, folder.path, "embeddings", "00000001.parquet").unlink()
        elif short == "pixels":
            # A marker that is damaged, and one that is gone.
            damage(Path(store.url, folder.marker_name(0)))
            Path(store.url, folder.marker_name(0)).write_text("{half")
            Path(store.url, folder.marker_name(unit)).unlink()
            expected.append(folder.marker_name(0))
            continue
        else:
            damage(Path(store.path(next(folder.file(role, unit) for role in folder.marker(unit).files))))
        expected.append(folder.marker_name(unit))
        expected += [folder.marker_name(WHOLE)] if short.startswith(("plan", "nodes-", "dedup-", "select")) else []
    names, advice = mended(store, command, capsys)
    assert names == sorted(expected)
    heading = advice.index("to repair, delete these and run the recipe again:")
    assert advice[heading - 1] == f"{heading - 1} faults"
    assert store.read_json("manifest.json") == before
    assert len(server.asked) == asked, "nothing was fetched again"


def test_what_is_fetched_again_takes_with_it_what_was_computed_of_it(run, capsys):
    server, store, command = run
    of = folders(store)
    part = 1
    urls = set(of["plan"].table("pairs.parquet", part, ["url"])["url"].to_pylist())
    before = {
        name: folder.marker(0) for name, folder in of.items() if 0 in folder.units() and name in ("fetch", "pixels")
    }
    damage(Path(store.path(of["fetch"].file("images.tar", part))))
    # The web has moved on: every picture of the part is another one.
    kept = dict(server.answers)
    try:
        for number in range(ROWS):
            server.answers[f"/{number}.jpg"] = ok(picture(number + ROWS))
        asked = len(server.asked)
        names, advice = mended(store, command, capsys)
        assert len(server.asked) == asked + len(urls)
    finally:
        server.answers.clear()
        server.answers.update(kept)
    assert "1 fault" in advice
    assert advice[-1] == "1 part will be fetched again; where images have changed, decisions may change"
    by_part = ("fetch", "pixels", "embed-pocket", "signals-caption", "signals-concept_grey")
    whole = ("nodes-image_embedding", "dedup-image_embedding", "select", "pack", "report")
    assert names == sorted(
        [*(of[name].marker_name(part) for name in by_part)]
        + [f"{of[name].path}/" for name in whole]
        + [f"{of['pack'].bookkeeping}/"]
    )
    assert {name: of[name].marker(0) for name in before} == before, "other parts stay"
    # What was packed of the part is what was fetched now.
    images = of["fetch"].table("images.parquet", part, ["sha256"])["sha256"].to_pylist()
    tables = [pq.read_table(path) for path in Path(store.url, of["pack"].path, "shards").glob("*.parquet")]
    there = [row for table in tables for row in table.to_pylist() if row["url"] in urls]
    assert there
    assert {row["sha256"] for row in there} <= set(images)


def test_decisions_that_do_not_add_up_go_as_a_whole(run):
    _, store, _ = run
    manifest = read_manifest(store, "manifest.json")
    select, plan, pack = (manifest.folders[name] for name in ("select", "plan", "pack"))
    assert to_delete(manifest, [Fault("x", ("select", None), ("plan", WHOLE))]) == sorted(
        [plan.marker_name(WHOLE), f"{select.path}/"]
    )
    assert to_delete(manifest, [Fault("x", ("pack", None))]) == sorted([f"{pack.path}/", f"{pack.bookkeeping}/"])
    assert verify(store) == []
    assert to_delete(manifest, []) == []


def test_samples_are_read_again_as_they_were(made, tmp_path, capsys):
    _, folder = made
    (tmp_path / "in").mkdir()
    for number in range(6):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(picture(number))
        (tmp_path / "in" / f"{number}.txt").write_text(f"a grey drawing number {number}")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe |= {"source": {"kind": "samples", "paths": [str(tmp_path / "in")]}, "output": str(tmp_path / "run")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = ["run", str(tmp_path / "recipe.yaml"), "--engine", "local"]
    assert main(command) == 0
    store = Store(str(tmp_path / "run"))
    before, fetch = store.read_json("manifest.json"), folders(store)["fetch"]
    damage(Path(store.path(fetch.file("images.tar", 0))))
    names, _ = mended(store, command, capsys)
    assert names == [fetch.marker_name(0)]
    assert store.read_json("manifest.json")["result"] == before["result"]
