"""Files of TorchScript as image-only models: what they embed, and what is refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.descriptor import (
    IMAGE,
    Descriptor,
    NotANumber,
    OfAllImages,
    OfAnotherSize,
    OfPixels,
    Pair,
    Raising,
    scripted,
)
from helpers.embed_parts import Part, draw, encode
from PIL import Image

from curate.embed.model import torchscript
from curate.embed.worker import open_worker
from curate.errors import ModelError
from curate.store import Store

CPU = torch.device("cpu")


def by_hand(picture: Image.Image, module: Descriptor) -> Any:
    pixels = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR), np.float32) / 255
    images = torch.from_numpy((pixels - 0.5) / 0.5).permute(2, 0, 1)[None]
    with torch.inference_mode():
        found = module(images)[0].numpy()
    return found / np.linalg.norm(found)


def worker_of(path: Path, **more: Any) -> Any:
    model = {"name": str(path), "pretrained": None, "precision": "fp32", "batch_size": 4, "threads": 1, **more}
    settings = {"models": {"eye": {**model, "torchscript": IMAGE}}}
    return open_worker({**settings, "device": "cpu", "decode": "exact", "endpoint": None})


def test_images_are_embedded_by_the_file_and_captions_are_not(tmp_path: Path) -> None:
    module = Descriptor()
    path = scripted(module, tmp_path / "eye.pt")
    pictures = [draw(seed) for seed in range(6)]
    part = Part(tmp_path, [(encode(picture), ["a", "b"]) for picture in pictures] + [(None, ["c"]), (b"?", ["d"])])
    tables = part.embed(worker_of(path), "embed-eye", "pixels")
    assert {role for name, role in tables if name == "embed-eye"} == {"images.parquet"}
    table = tables["embed-eye", "images.parquet"]
    of_bytes = {encode(picture): by_hand(picture, module) for picture in pictures}
    for (image_id, data), row in zip(part.images, table.to_pylist(), strict=True):
        assert row["image_id"] == image_id
        if data in of_bytes:
            np.testing.assert_allclose(np.asarray(row["image_embedding"], np.float32), of_bytes[data], atol=1e-3)
        else:
            assert row["image_embedding"] is None


def test_facts_are_those_of_the_file_and_of_the_recipe(tmp_path: Path) -> None:
    path = scripted(Descriptor(), tmp_path / "eye.pt")
    facts = torchscript.facts_of(str(path), IMAGE)
    assert (facts.embed_dim, facts.image_size, facts.context_length, facts.logit_scale) == (128, (32, 32), None, None)
    oblong = torchscript.facts_of(str(path), {**IMAGE, "size": [32, 48]})
    assert (oblong.image_size, oblong.weights_sha256) == ((32, 48), facts.weights_sha256)
    assert oblong.config_sha256 != facts.config_sha256
    assert torchscript.facts_of(str(path), {**IMAGE, "mean": [0.4, 0.5, 0.5]}).config_sha256 != facts.config_sha256
    other = scripted(Descriptor(seed=1), tmp_path / "other.pt")
    assert torchscript.facts_of(str(other), IMAGE).weights_sha256 != facts.weights_sha256


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_lower_precision_converts_the_file(tmp_path: Path, precision: str) -> None:
    path = scripted(Descriptor(), tmp_path / "eye.pt")
    crops = [np.asarray(draw(seed).resize((32, 32))).transpose(2, 0, 1) for seed in range(3)]
    found = [torchscript.load(str(path), IMAGE, of, CPU).encode_images(crops, 4) for of in ("fp32", precision)]
    assert found[1].dtype == torch.float32
    assert not torch.equal(*found)
    assert (found[0] * found[1]).sum(1).min() > 0.999


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (OfAllImages(), "gives a tensor of [1, 3] for 2 images, not one row of numbers for each"),
        (OfPixels(), "gives a tensor of [2, 3, 32, 32] for 2 images, not one row of numbers for each"),
        (Pair(), "gives a tuple for 2 images, not one row of numbers for each"),
        (NotANumber(), "gives embeddings that are empty or not finite in fp32"),
        (
            Raising(),
            "fails for images of 2 × 3 × 32 × 32 in fp32: builtins.ValueError: another picture, please",
        ),
        (OfAnotherSize(), "mat1 and mat2 shapes cannot be multiplied (2x3072 and 768x4)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_file_that_embeds_no_images_is_one_line(tmp_path: Path, module: Any, message: str) -> None:
    path = scripted(module, tmp_path / "eye.pt")
    with pytest.raises(ModelError) as caught:
        torchscript.facts_of(str(path), IMAGE, key="models.eye")
    assert str(caught.value).startswith("models.eye: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_file_than_torchscript_is_one_line(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pt")
    (tmp_path / "text.pt").write_text("no model")
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("weights.pt", "text.pt", "empty.pt"):
        with pytest.raises(
            ModelError, match=rf"^models\.eye: .*{name} is not a file of TorchScript that torch"
        ) as caught:
            torchscript.facts_of(str(tmp_path / name), IMAGE, key="models.eye")
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"absent\.pt do not exist"):
        torchscript.facts_of(str(tmp_path / "absent.pt"), IMAGE)


def test_a_file_may_be_in_a_bucket(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = scripted(Descriptor(), tmp_path / "eye.pt")
    Store("s3://bucket/models").put("eye.pt", path.read_bytes())
    assert torchscript.facts_of("s3://bucket/models/eye.pt", IMAGE, s3) == torchscript.facts_of(str(path), IMAGE)


def test_every_call_computes_alike(tmp_path: Path) -> None:
    model = torchscript.load(str(scripted(Descriptor(), tmp_path / "eye.pt")), IMAGE, "fp32", CPU)
    crops = [np.asarray(draw(seed).resize((32, 32))).transpose(2, 0, 1) for seed in range(4)]
    first, *others = [model.encode_images(crops, 4) for _ in range(5)]
    assert all(torch.equal(first, other) for other in others)


def test_a_file_that_changed_since_the_run_began_is_refused(tmp_path: Path) -> None:
    path = scripted(Descriptor(), tmp_path / "eye.pt")
    digest = torchscript.facts_of(str(path), IMAGE).weights_sha256
    torchscript.load(str(path), IMAGE, "fp32", CPU, weights_sha256=digest)
    scripted(Descriptor(seed=1), path)
    with pytest.raises(ModelError, match="is not the file that the run began with"):
        torchscript.load(str(path), IMAGE, "fp32", CPU, weights_sha256=digest)
