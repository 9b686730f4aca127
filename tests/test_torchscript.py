"""A run with an image-only model from a file of TorchScript: it finds copies, and nothing reads texts by it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from helpers.descriptor import IMAGE, Descriptor, NotANumber, scripted
from helpers.embed_parts import draw, encode
from helpers.sample_run import write_tar

from curate.commands.main import main
from curate.commands.verify import verify
from curate.errors import RecipeError
from curate.recipe import parse
from curate.store import Folder, Store

pytestmark = pytest.mark.usefixtures("in_process")

NEAR = {"by": "image_embedding", "model": "eye", "above": 0.9}


def model(path: Path | str, **more: Any) -> dict[str, Any]:
    return {"name": str(path), "batch_size": 4, "threads": 1, "torchscript": {**IMAGE, **more}}


def content(folder: Path, models: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    models = models or {"pocket": {"name": "pocket", "batch_size": 4}, "eye": model(folder / "eye.pt")}
    return {
        "version": 1,
        "source": {"kind": "samples", "paths": [str(folder / "in")], "caption": "txt"},
        "output": str(folder / "run"),
        "fetch": {"resize": "no"},
        "models": models,
        **more,
    }


def write(folder: Path, recipe: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the file of TorchScript, and a tar of four pictures and a copy of each as JPEG."""
    scripted(Descriptor(), tmp_path / "eye.pt")
    members = []
    for seed in range(4):
        for kind in ("PNG", "JPEG"):
            key = f"{seed}{kind.lower()}"
            members += [(f"{key}.png", encode(draw(seed), kind)), (f"{key}.txt", f"picture {key}".encode())]
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in" / "0.tar", members)
    return tmp_path


def folders(root: Path) -> tuple[Store, dict[str, str], Path]:
    store = Store(str(root / "run"))
    manifest = store.read_json("manifest.json")
    return store, manifest["folders"], root / "run" / manifest["pack"]


def test_copies_are_dropped_by_a_descriptor_without_texts(folder: Path) -> None:
    select = [{"drop": "copy", "duplicates": NEAR}]
    pack = {"layouts": ["webdataset", "clip_retrieval"]}
    recipe = content(folder, select=select, dedup={"floors": {"eye": 0.7}}, pack=pack)
    assert main(["run", str(write(folder, recipe)), "--engine", "local"]) == 0
    store, passes, packed = folders(folder)
    funnel = Folder.at(store, passes["select"]).json("funnel.json")
    assert (funnel["kept"], funnel["steps"][-1]["dropped"]) == (4, 4)
    assert funnel["steps"][-1]["searches"][0]["near"] == "dedup-image_embedding-eye"
    assert "dedup-image_embedding" not in passes
    (shard,) = (packed / "shards").glob("*.parquet")
    scores = {name for name in pq.read_schema(shard).names if name.startswith("clip_similarity")}
    assert scores == {"clip_similarity", "clip_similarity_pocket"}
    (embeddings,) = (packed / "embeddings").glob("*.parquet")
    names = ["uid", "image_embedding", "text_embedding", "image_embedding_eye"]
    assert pq.read_schema(embeddings).names == names
    stored = np.stack(pq.read_table(embeddings)["image_embedding_eye"].to_numpy())
    np.testing.assert_allclose(np.linalg.norm(stored.astype(np.float32), axis=1), 1, atol=1e-3)
    assert list((packed / "clip_retrieval_eye" / "img_emb").iterdir())
    assert not (packed / "clip_retrieval_eye" / "text_emb").exists()
    assert funnel["steps"][-1]["says"].startswith("cosine ≥ 0.9 by eye; keeps")
    assert verify(store, deep=True) == []
    # Another file is another model: its images are embedded, those of the first are not.
    scripted(Descriptor(seed=1), folder / "eye.pt")
    assert main(["run", str(folder / "recipe.yaml"), "--engine", "local"]) == 0
    _, again, _ = folders(folder)
    assert {name for name in passes if passes[name] != again[name] and name.startswith("embed")} == {"embed-eye"}


def test_a_descriptor_alone_curates_images(folder: Path) -> None:
    same = {"drop": "copy", "duplicates": {"by": "image_embedding", "above": 0.9, "prefer": "width"}}
    recipe = content(folder, {"eye": model(folder / "eye.pt")}, select=[same])
    assert main(["run", str(write(folder, recipe)), "--engine", "local"]) == 0
    store, passes, _ = folders(folder)
    assert Folder.at(store, passes["select"]).json("funnel.json")["kept"] == 4
    assert verify(store) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"models": {"eye": {"name": "eye.pt", "torchscript": {"size": 32}}}}, "write trust: true where you trust its"),
        ({"models": {"eye": model("eye.pt", trust=False)}}, "models.eye.torchscript: a file of TorchScript is code"),
        ({"models": {"eye": {"name": "x", "torchscript": {"trust": True}}}}, "lacks 'models.eye.torchscript.size'"),
        ({"models": {"eye": model("x", size=0)}}, "models.eye.torchscript.size"),
        (
            {"models": {"eye": model("x", std=[0.5, 0.0, 0.5])}},
            "models.eye.torchscript.std",
        ),
        ({"models": {"eye": model("x") | {"compile": True}}}, "compile: a file of TorchScript is compiled"),
        ({"models": {"eye": model("x") | {"mirror": True}}}, "mirror: a file of TorchScript has no text tower"),
        ({"models": {"eye": model("x") | {"pretrained": "y.pt"}}}, "pretrained: a file of TorchScript has its own"),
        ({"models": {"eye": model("x"), "pocket": {"name": "pocket"}}}, "eye comes first but has no text tower"),
        (
            {"signals": {"concepts": {"mark": {"prompts": ["a watermark", "a photo"], "model": "eye"}}}},
            "signals.concepts.mark compares images with texts, and the model 'eye' has no text tower (torchscript)",
        ),
    ],
)
def test_a_wrong_recipe_is_one_line(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(content(tmp_path, **more) if "models" not in more else content(tmp_path, more["models"]))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_kind_that_compares_captions_needs_a_text_tower(tmp_path: Path) -> None:
    parse(content(tmp_path, select=[{"drop": "near", "duplicates": NEAR}]))
    near = {**NEAR, "by": "text_embedding", "above": 0.99}
    with pytest.raises(RecipeError, match="'near': text_embedding compares captions, and the model 'eye' has no text"):
        parse(content(tmp_path, select=[{"drop": "near", "duplicates": near}]))


@pytest.mark.parametrize(
    "step",
    [
        {"where": "clip_similarity_eye < 0.2"},
        {"keep_top": {"of": "clip_similarity_eye", "fraction": 0.5}},
        {"duplicates": NEAR | {"prefer": "clip_similarity_eye"}},
    ],
)
def test_a_step_that_reads_its_scores_is_one_line(folder: Path, capsys: Any, step: dict[str, Any]) -> None:
    recipe = content(folder, select=[{"drop": "bad", **step}])
    assert main(["run", str(write(folder, recipe)), "--engine", "local", "--dry-run"]) == 2
    said = "select step 'bad': there is no clip_similarity_eye, as the model 'eye' has no text tower (torchscript)"
    assert said in capsys.readouterr().err


def test_without_trust_the_file_is_not_opened(folder: Path, capsys: Any) -> None:
    recipe = content(folder, {"eye": model(folder / "absent.pt", trust=False)})
    assert main(["run", str(write(folder, recipe)), "--engine", "local"]) == 2
    error = capsys.readouterr().err
    assert "is code that runs with all your rights; write trust: true" in error
    assert "absent.pt" not in error


def test_a_file_that_fails_ends_the_command_before_anything_is_written(folder: Path, capsys: Any) -> None:
    scripted(NotANumber(), folder / "eye.pt")
    assert main(["run", str(write(folder, content(folder))), "--engine", "local"]) == 2
    assert "models.eye: it gives embeddings that are empty or not finite in fp32" in capsys.readouterr().err
    assert not (folder / "run").exists()
