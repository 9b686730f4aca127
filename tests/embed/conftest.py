"""Tiny models and a part with every kind of row."""

import functools
import json

import open_clip
import pytest
import torch
from helpers.embed_parts import FAMILIES, Part, Tiny, draw, encode
from safetensors.torch import save_file

from curate.embed.model.loading import load


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Models this small lose more by waiting for a second thread than they gain."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Makes a tiny model of a family, once per session and family."""
    made = {}
    tokenize = open_clip.tokenizer.SimpleTokenizer(context_length=24)

    def make(family: str) -> Tiny:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            config = folder / f"tiny-{family}.json"
            config.write_text(json.dumps(FAMILIES[family]))
            open_clip.add_model_config(config)
            torch.manual_seed(len(family))
            clip, _, preprocess = open_clip.create_model_and_transforms(
                f"tiny-{family}", pretrained_image=False, pretrained_text=False
            )
            clip.eval()
            state = {key: value.contiguous().clone() for key, value in clip.state_dict().items()}
            save_file(state, folder / "weights.safetensors")
            torch.save({"state_dict": state}, folder / "weights.pt")
            made[family] = Tiny(
                str(config),
                str(folder / "weights.safetensors"),
                clip,
                preprocess,
                tokenize,
            )
        return made[family]

    return make


@pytest.fixture(scope="session")
def loaded(tiny):
    """Loads a family's model as a worker does, once per session; not to be changed."""

    @functools.cache
    def once(family: str, precision: str = "fp32"):
        return load(tiny(family).config, tiny(family).weights, precision, torch.device("cpu"))

    return once


@pytest.fixture
def part(tmp_path):
    """A part with every kind of row: fetched, lost, torn; captions long, short, empty, repeated."""
    long = "a photograph of a very small red house beside a lake under a cloudy evening sky in the far north"
    rows = [
        (encode(draw(0)), ["a cat"]),
        (encode(draw(1, (40, 80)), "JPEG"), ["a dog on a hill", "a cat"]),
        (None, ["this image was not fetched"]),
        (encode(draw(2))[:-700], ["this image is torn"]),
        (b"not an image", ["this is text"]),
        (encode(draw(3).convert("L")), ["", "a grey picture"]),
        (encode(draw(4).convert("P")), ["a palette"]),
        (encode(draw(5, (64, 64)), "WEBP"), [long, long]),
        (encode(draw(6, (3, 200))), ["A CAT"]),
    ]
    return Part(tmp_path / "run", rows)
