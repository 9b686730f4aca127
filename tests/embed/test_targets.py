"""Target images and prompt ensembles through a model, against open_clip's own."""

import io
from typing import ClassVar

import numpy as np
import open_clip
import pytest
import torch
from helpers.embed_parts import draw, encode
from helpers.memory_faults import OUT_OF_MEMORY, TooLarge
from PIL import Image

from curate.embed import target_files, targets
from curate.embed.model import weights
from curate.embed.prompts import open_worker as open_prompts
from curate.errors import DeviceLost, ModelError, RecipeError
from curate.store import WHOLE, Folder, Inputs, Store


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "good"
    (place / "inner").mkdir(parents=True)
    (place / "a.png").write_bytes(encode(draw(0)))
    (place / "inner" / "b.JPG").write_bytes(encode(draw(1), "JPEG"))
    (place / "copy.png").write_bytes(encode(draw(0)))
    (place / "notes.txt").write_text("no image")
    return place


def test_files_folders_and_globs(folder):
    assert len(target_files.find("x", [str(folder)])) == 2  # a and its copy are one
    assert len(target_files.find("x", [str(folder / "*.png")])) == 1
    assert len(target_files.find("x", [str(folder / "a.png"), str(folder / "inner" / "b.JPG")])) == 2
    assert target_files.find("x", [str(folder), str(folder)]) == target_files.find("x", [str(folder)])


def test_what_is_no_target(folder, monkeypatch):
    for path, said in (("none", "does not exist"), ("*.gif", "names no image"), ("notes.txt", "names no image")):
        with pytest.raises(RecipeError, match=said) as caught:
            target_files.find("signals.targets.good", [str(folder / path)])
        assert "signals.targets.good" in str(caught.value)
    monkeypatch.setattr(target_files, "MOST", 1)
    with pytest.raises(RecipeError, match="1 at most"):
        target_files.find("signals.targets.good", [str(folder)])


def test_targets_on_s3(s3, folder):
    Store("s3://bucket/good").put("a.png", (folder / "a.png").read_bytes())
    (found,) = target_files.find("x", ["s3://bucket/good"])
    assert found.sha256 == target_files.find("x", [str(folder / "a.png")])[0].sha256
    assert target_files.find("x", ["s3://bucket/good/*.png"]) == [found]


def run(opener, made, sets, root, change=None):
    """The tables of some sets; `change` is done to the CLIP before."""
    settings = {"models": {"m": made.settings}, "sets": sets, "device": "cpu", "endpoint": None}
    worker = opener(settings)
    if change:
        change(worker._model("m", worker.models["m"])[0].clip)
    folders = {name: Folder(Store(str(root)), name, "x") for name in sets}
    outputs = {name: of.outputs() for name, of in folders.items()}
    worker(WHOLE, Inputs({}, []), outputs)
    for output in outputs.values():
        output.commit()
    return {name: of.table("prompts.parquet") for name, of in folders.items()}


def notes(name, root):
    return Folder(Store(str(root)), name, "x").marker().notes


def embeddings(table):
    return np.array(table["embedding"].to_pylist())


def test_targets_are_embedded_upright_and_on_white(tiny, folder, tmp_path):
    made = tiny("vit")
    turned, clear = draw(2, (60, 40)), draw(3).convert("RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6
    sink = io.BytesIO()
    turned.save(sink, "PNG", exif=exif)
    (folder / "turned.png").write_bytes(sink.getvalue())
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    (folder / "clear.png").write_bytes(encode(clear))
    images = target_files.find("signals.targets.good", [str(folder)])
    asked = {"model": "m", "where": "signals.targets.good", "images": [vars(image) for image in images]}
    table = run(targets.open_worker, made, {"targets-good": asked}, tmp_path / "out")["targets-good"]
    white = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    as_seen = {"a.png": draw(0), "turned.png": turned.transpose(Image.Transpose.ROTATE_270), "clear.png": white}
    of = dict(zip(table["prompt"].to_pylist(), embeddings(table), strict=True))
    for name, picture in as_seen.items():
        (image,) = target_files.find("x", [str(folder / name)])
        np.testing.assert_allclose(of[image.sha256], made.embed_image(picture.convert("RGB")), atol=1e-5)


def test_a_target_that_does_not_decode_or_changed(tiny, folder, tmp_path):
    made = tiny("vit")
    (folder / "torn.png").write_bytes(encode(draw(2))[:-100])
    images = target_files.find("signals.targets.good", [str(folder)])
    asked = {"model": "m", "where": "signals.targets.good", "images": [vars(image) for image in images]}
    with pytest.raises(RecipeError, match=r"torn\.png cannot be decoded"):
        run(targets.open_worker, made, {"targets-good": asked}, tmp_path / "one")
    (folder / "torn.png").write_bytes(encode(draw(5)))
    with pytest.raises(RecipeError, match="changed during the run"):
        run(targets.open_worker, made, {"targets-good": asked}, tmp_path / "two")


def test_a_target_of_16_bits_is_refused(tiny, folder, tmp_path):
    grey = Image.fromarray(np.linspace(0, 65535, 90 * 60).reshape(60, 90).astype(np.uint16))
    (folder / "grey.png").write_bytes(encode(grey))
    (image,) = target_files.find("signals.targets.good", [str(folder / "grey.png")])
    with pytest.raises(RecipeError, match=r"grey\.png has more than 8 bits"):
        run(
            targets.open_worker,
            tiny("vit"),
            {"targets-good": {"model": "m", "where": "signals.targets.good", "images": [vars(image)]}},
            tmp_path / "x",
        )


def test_what_a_place_says_is_one_line(folder, monkeypatch):
    def fails(*_):
        raise OSError("first line\nsecond line")

    monkeypatch.setattr(target_files, "_match", fails)
    with pytest.raises(RecipeError, match="first line second line"):
        target_files.find("signals.targets.good", [str(folder)])


class Pocket:
    """The built-in model, and open_clip's own instance of it."""

    settings: ClassVar = {"name": "pocket", "pretrained": None, "precision": "fp32", "batch_size": 64, "threads": 1}

    def __init__(self):
        origin = weights.find("pocket", None)
        self.clip = open_clip.create_model(origin.name, origin.pretrained).eval()
        self.tokenize = open_clip.get_tokenizer(origin.name)


def test_ensembles_of_the_pocket_model_are_open_clips(tmp_path):
    """Trained weights, whose prompts are not all alike as those of random ones are."""
    made = Pocket()
    templates = ["a {}", "two {}s on a red background", "a drawing that shows a {}", "a small {} beside a star"]
    labels = ["circle", "square", "heart", "arrow"]
    asked = {
        "model": "m",
        "where": "signals.classes.x",
        "names": labels,
        "prompts": [[t.format(label) for t in templates] for label in labels],
    }
    table = run(open_prompts, made, {"labels-shape": asked}, tmp_path)["labels-shape"]
    expected = open_clip.build_zero_shot_classifier(
        made.clip, made.tokenize, labels, [lambda label, t=template: t.format(label) for template in templates]
    )
    np.testing.assert_allclose(embeddings(table), expected.T.detach().numpy(), atol=1e-5)
    apart = embeddings(table) @ embeddings(table).T
    assert (apart[~np.eye(4, dtype=bool)] < 0.99).all()


def test_ensembles_are_open_clips(tiny, tmp_path):
    made = tiny("vit")
    templates = ["a photo of a {}.", "a drawing of the {}.", "many {}s, seen from afar"]
    labels = ["cat", "dog", "house"]
    prompts = [[template.format(label) for template in templates] for label in labels]
    asked = {"model": "m", "where": "signals.classes.x", "names": labels, "prompts": prompts}
    table = run(open_prompts, made, {"labels-kind": asked}, tmp_path)["labels-kind"]
    with torch.no_grad():
        expected = open_clip.build_zero_shot_classifier(
            made.clip, made.tokenize, labels, [lambda label, t=template: t.format(label) for template in templates]
        )
    assert table["prompt"].to_pylist() == labels
    np.testing.assert_allclose(embeddings(table), expected.T.numpy(), atol=1e-5)


def ask(opener, folder):
    """A set of six prompts, or of six images."""
    if opener is open_prompts:
        return {
            "labels-x": {
                "model": "m",
                "where": "signals.classes.x",
                "names": list("abc"),
                "prompts": [[f"{n} one", f"two {n}s"] for n in "abc"],
            }
        }
    for n in range(6):
        (folder / "inner" / f"{n}.png").write_bytes(encode(draw(n + 20)))
    images = target_files.find("x", [str(folder / "inner" / "*.png")])
    return {"targets-x": {"model": "m", "where": "signals.targets.good", "images": [vars(image) for image in images]}}


OPENERS = [open_prompts, targets.open_worker]


@pytest.mark.parametrize("opener", OPENERS, ids=["prompts", "targets"])
def test_a_set_that_memory_does_not_hold_at_once_is_halved(opener, tiny, folder, tmp_path):
    asked = ask(opener, folder)
    (name,) = asked
    usual = run(opener, tiny("vit"), asked, tmp_path / "usual")[name]
    assert not notes(name, tmp_path / "usual")

    def holds_two(clip):
        for module in (clip.token_embedding, clip.visual.conv1):
            TooLarge(module, 2, OUT_OF_MEMORY[0])

    halved = run(opener, tiny("vit"), asked, tmp_path / "halved", holds_two)[name]
    assert halved["prompt"].equals(usual["prompt"])
    np.testing.assert_allclose(embeddings(halved), embeddings(usual), atol=1e-5)
    assert notes(name, tmp_path / "halved") == ("out of memory: embedded in batches of 2 instead of 4",)


@pytest.mark.parametrize("opener", OPENERS, ids=["prompts", "targets"])
def test_a_set_whose_embeddings_are_not_numbers_stops_the_run(opener, tiny, folder, tmp_path):
    def breaks(clip):
        with torch.no_grad():
            clip.visual.proj.fill_(float("nan"))
            clip.text_projection.fill_(float("nan"))

    with pytest.raises(ModelError, match="not finite; use another precision"):
        run(opener, tiny("vit"), ask(opener, folder), tmp_path / "out", breaks)


@pytest.mark.parametrize("opener", OPENERS, ids=["prompts", "targets"])
def test_a_gpu_that_failed_is_lost(opener, tiny, folder, tmp_path):
    def fail(clip):
        error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        TooLarge(clip.token_embedding if opener is open_prompts else clip.visual.conv1, 0, error)

    with pytest.raises(DeviceLost, match="the GPU failed: CUDA error: an illegal memory access"):
        run(opener, tiny("vit"), ask(opener, folder), tmp_path, fail)
