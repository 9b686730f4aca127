"""`curate explain` says of a pair what the run's own tables say."""

import random

import pyarrow.compute as pc
import pytest
import yaml

from curate.commands.main import main
from curate.demo.captions import caption
from curate.demo.scenes import draw_scene, sample_scene
from curate.errors import short
from curate.store import Folder, Store

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with two models, the first of which is the last by name."""
    root = tmp_path_factory.mktemp("explained")
    rng = random.Random(0)
    (root / "pairs").mkdir()
    for number in range(3):
        scene = sample_scene(rng)
        draw_scene(scene, (96, 96)).save(root / "pairs" / f"{number}.png")
        (root / "pairs" / f"{number}.txt").write_text(caption(scene, rng))
    recipe = {
        "version": 1,
        "source": {"kind": "samples", "paths": [str(root / "pairs")]},
        "output": str(root / "run"),
        "models": {"z": {"name": "pocket", "mirror": True}, "a": {"name": "pocket", "precision": "bf16"}},
        "select": [{"drop": "mismatched", "keep_top": {"of": "clip_similarity", "fraction": 1.0}, "over": "pool"}],
        "pack": {"layouts": ["webdataset", "clip_retrieval"]},
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert main(["run", str(root / "recipe.yaml"), "--engine", "local"]) == 0
    return Store(str(root / "run"))


def table(run, short, role="pairs"):
    return Folder.at(run, run.read_json("manifest.json")["folders"][short]).table(f"{role}.parquet", 0)


def test_a_column_without_a_suffix_is_the_first_models(run, capsys):
    capsys.readouterr()
    scores = {name: table(run, f"embed-{name}")["clip_similarity"].to_pylist() for name in ("a", "z")}
    assert [f"{score:.4f}" for score in scores["a"]] != [f"{score:.4f}" for score in scores["z"]]
    first = table(run, "embed-z").to_pylist()
    for row in first:
        assert main(["explain", run.url, row["pair_id"].hex()]) == 0
        said = capsys.readouterr().out
        shown = dict(line.split() for line in said.splitlines() if line.startswith("  clip_similarity"))
        for column in ("clip_similarity", "clip_similarity_mirrored"):
            assert shown[column] == shown[f"{column}_z"] == f"{row[column]:.4f}"
        assert "clip_similarity_mirrored_a" not in shown
        least = min(first, key=lambda row: row["clip_similarity"])["clip_similarity"]
        rule = f"[keeps the top 100 % of all fetched pairs by clip_similarity: clip_similarity ≥ {short(least)}]"
        assert f"it has {row['clip_similarity']:.4f}  {rule}" in said


def test_every_file_that_holds_a_kept_pair_is_named(run, capsys):
    capsys.readouterr()
    pack = run.read_json("manifest.json")["pack"]
    names = ["embeddings/00000000.parquet", "shards/00000000.parquet", "shards/00000000.tar"]
    for folder in ("clip_retrieval", "clip_retrieval_a"):
        names += [f"{folder}/{kind}/{kind}_00000000.npy" for kind in ("img_emb", "text_emb")]
        names.append(f"{folder}/metadata/metadata_00000000.parquet")
    files = ", ".join(sorted(names))
    for number, row in enumerate(table(run, "select", "decisions").filter(pc.field("kept")).to_pylist()):
        assert main(["explain", run.url, row["pair_id"].hex()]) == 0
        assert f"packed      sample {number} of shard 00000000 in {pack}: {files}\n" in capsys.readouterr().out
    assert main(["verify", run.url]) == 0
