"""`fetch.known_results`: images whose URL an earlier result has are recorded, and not requested again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from helpers.drawn_web import write_recipe
from helpers.hostile_server import HostileServer

from curate.commands.main import main
from curate.commands.verify import verify
from curate.fetch import passes
from curate.fetch.known_urls import KnownUrls
from curate.schema import ID
from curate.store import Folder, Store

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer() as server:
        yield server


def run(recipe: Path, output: Path, rows: int, *more: str, until: str = "report") -> int:
    """Runs the first rows of the list."""
    listed = recipe.with_name(f"first-{rows}.csv")
    listed.write_text("\n".join((recipe.with_name("list.csv")).read_text().splitlines()[: rows + 1]) + "\n")
    sets = [f"output={output}", f"source.paths=[{listed}]", "models={pocket: {name: pocket}}", *more]
    return main(
        ["run", str(recipe), "--engine", "local", "--until", until, *(word for one in sets for word in ("--set", one))]
    )


def reasons(output: Path) -> dict[str, str | None]:
    """By URL, why its pair was dropped."""
    store = Store(str(output))
    manifest = store.read_json("manifest.json")
    plan, select = (Folder.at(store, manifest["folders"][name]) for name in ("plan", "select"))
    found: dict[str, str | None] = {}
    for part in range(manifest["n_parts"]):
        urls = plan.table("pairs.parquet", part)["url"].to_pylist()
        found |= dict(zip(urls, select.table("decisions.parquet", part)["reason"].to_pylist(), strict=True))
    return found


def test_what_an_earlier_result_has_is_not_requested(
    server: HostileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, server, 9, part_size=5, pack={"shard_size": 2})
    assert run(recipe, tmp_path / "first", 4) == 0
    # Several units, each of one table.
    monkeypatch.setattr(passes, "KNOWN_ROWS", 2)
    server.asked.clear()
    known = f"fetch.known_results=[{tmp_path / 'first'}]"
    assert run(recipe, tmp_path / "second", 9, known) == 0
    expected = {server.url(f"/{n}.jpg"): "fetch:known_url" if n < 4 else None for n in range(9)}
    assert reasons(tmp_path / "second") == expected
    assert requested(server) == {f"/{number}.jpg" for number in range(4, 9)}
    assert verify(Store(str(tmp_path / "second")), deep=True) == []
    manifest = Store(str(tmp_path / "second")).read_json("manifest.json")
    counts = Folder.at(Store(str(tmp_path / "second")), manifest["folders"]["known_urls"]).marker().counts
    assert counts == {"units": 2, "urls": 4}
    # By another path the same result is the same, so nothing is fetched or gathered again.
    server.asked.clear()
    (tmp_path / "first").rename(tmp_path / "moved")
    assert run(recipe, tmp_path / "second", 9, f"fetch.known_results=[{tmp_path / 'moved'}]", until="fetch") == 0
    assert requested(server) == set()
    # Off by default: another fetch, of everything.
    assert run(recipe, tmp_path / "second", 9, until="fetch") == 0
    assert requested(server) == {f"/{number}.jpg" for number in range(9)}


def requested(server: HostileServer) -> set[str]:
    return {head.split(b" ", 2)[1].decode() for head in server.asked}


def test_a_list_that_is_known_whole_is_not_taken_for_a_fault(
    server: HostileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, server, 3)
    assert run(recipe, tmp_path / "first", 3) == 0
    least = ["fetch.min_success=0.9", "fetch.min_success_window=1"]
    assert run(recipe, tmp_path / "second", 3, f"fetch.known_results=[{tmp_path / 'first'}]", *least) == 3
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "most were dropped as 'fetch:known_url'; nothing was packed. Earlier results have these images" in said


def test_ids_are_looked_up_as_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = sorted(
        {bytes(id_) for id_ in rng.integers(0, 3, (300, 16)).astype(np.uint8)} | {bytes(16), b"\0" * 15 + b"\1"}
    )
    folder = Folder(Store(str(tmp_path)), "known_urls", "f")
    for unit, some in enumerate((ids[::3], [], ids[1::3])):
        out = folder.outputs(unit)
        out.put_table("ids.parquet", pa.table([pa.array(some, ID)], ["image_id"]))
        out.commit()
    out = folder.outputs()
    out.counts["units"] = 3
    out.commit()
    (tmp_path / "lists").mkdir()
    listed = {*ids[::3], *ids[1::3]}
    assert KnownUrls(folder, tmp_path / "lists").have(ids).tolist() == [id_ in listed for id_ in ids]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"fetch": {"known_results": ["{tmp}"]}},
            "fetch.known_results: {tmp} has no manifest.json; name the",
        ),
        (
            {"fetch": {"known_results": ["{tmp}"]}, "source": {"kind": "samples", "paths": ["{tmp}"]}},
            "recipe: fetch.known_results: samples are read, not fetched; compare them with `against`",
        ),
    ],
)
def test_a_wrong_result_is_one_line(
    more: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.csv").write_text("url,caption\nhttp://a/b.jpg,c\n")
    content = {"version": 1, "source": {"paths": [str(tmp_path / "list.csv")]}, "output": str(tmp_path / "run"), **more}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content).replace("{tmp}", str(tmp_path)))
    assert main(["run", str(tmp_path / "recipe.yaml"), "--engine", "local"]) == 2
    assert message.format(tmp=tmp_path) in capsys.readouterr().err


def test_a_table_that_changed_is_refused(
    server: HostileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, server, 2)
    assert run(recipe, tmp_path / "first", 2) == 0
    (shard,) = (tmp_path / "first").glob("pack-*/shards/*.parquet")
    shard.write_bytes(shard.read_bytes() + b"x")
    assert run(recipe, tmp_path / "second", 2, f"fetch.known_results=[{tmp_path / 'first'}]", until="fetch") == 2
    assert "is not the file that its manifest describes (sha256 differs)" in capsys.readouterr().err
