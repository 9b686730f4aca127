"""Plan and dedup by units, as in long runs: the result has the bytes of a run that does each in one unit."""

from pathlib import Path
from typing import Any

import pytest
from helpers.drawn_web import keep_top, write_recipe
from helpers.hostile_server import HostileServer
from helpers.near_pairs import all_near

from curate.commands.main import main
from curate.dedup.kinds.image_embedding import ImageEmbedding
from curate.plan import passes as plan
from curate.store import Folder, Store

ROWS = 40
SELECT = [keep_top("worst", 0.9), {"drop": "near", "duplicates": {"by": "image_embedding", "above": 0.97}}]


def run(recipe: Path, output: str, *, by_units: bool, engine: str = "local") -> Store:
    """Runs the recipe, and verifies the result."""
    with pytest.MonkeyPatch.context() as patch:
        if by_units:
            patch.setattr(plan, "SHORT", 0)
            patch.setattr(ImageEmbedding, "block_rows", 12)
        assert main(["run", str(recipe), "--engine", engine, "--set", f"output={output}"]) == 0
        assert main(["verify", output, "--deep"]) == 0
    return Store(output)


def content(store: Store) -> dict[str, Any]:
    """What a run holds that may not depend on units: its parts, near pairs, and the files of the result."""
    manifest = store.read_json("manifest.json")
    folders = {short: Folder.at(store, path) for short, path in manifest["folders"].items()}
    search = folders["dedup-image_embedding"]
    near = sorted(all_near(search, folders["nodes-image_embedding"]))
    parts = [folders["plan"].info("pairs.parquet", part).sha256 for part in range(manifest["n_parts"])]
    shards = {Path(info["name"]).name: info["sha256"] for info in manifest["result"] if "shards/" in info["name"]}
    assert near
    assert shards
    return {"parts": parts, "near": near, "shards": shards, "tiles": search.marker().counts["tiles"]}


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    with HostileServer() as server:
        yield write_recipe(tmp_path, server, ROWS, part_size=8, select=SELECT, pack={"shard_size": 10})


@pytest.mark.usefixtures("in_process")
def test_the_result_does_not_depend_on_units(recipe: Path, tmp_path: Path) -> None:
    one = content(run(recipe, str(tmp_path / "one"), by_units=False))
    many = content(run(recipe, str(tmp_path / "many"), by_units=True))
    # Four blocks of some twelve images: ten pairs of them.
    assert (one.pop("tiles"), many.pop("tiles")) == (1, 10)
    assert many == one


@pytest.mark.soak
@pytest.mark.usefixtures("s3")
def test_nor_on_units_under_ray_with_s3(recipe: Path, tmp_path: Path) -> None:
    one = content(run(recipe, str(tmp_path / "one"), by_units=False))
    many = content(run(recipe, "s3://bucket/run", by_units=True, engine="ray"))
    assert (one.pop("tiles"), many.pop("tiles")) == (1, 10)
    assert many == one
