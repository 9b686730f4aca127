import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import fsspec
import numpy as np
import open_clip
import pytest
import torch
from helpers.embed_parts import AT_THE_CLASS, AT_THE_END, CAUSAL, FAMILIES, draw
from PIL import Image
from safetensors.torch import load_file, save_file

from curate.embed.model.describe import describe
from curate.embed.model.loading import load
from curate.embed.model.names import POCKET
from curate.embed.model.text import CausalTower
from curate.embed.model.vision import ClassTokenTower
from curate.errors import ModelError

CPU = torch.device("cpu")
CAPTIONS = [
    "a cat",
    "",
    "Two RED squares, above three blue circles!",
    "naïve café 日本語 🐈",
    "word " * 60,
    "a photo of a dog",
    "  spaces  ",
    "a",
    "b",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_cut_or_not_are_embedded_as_open_clip_does(family, tiny, loaded):
    expected, model = tiny(family), loaded(family)
    assert (CausalTower.of(model.clip) is not None) == (family in CAUSAL)
    found = model.encode_captions(CAPTIONS, batch_size=4)
    with torch.inference_mode():
        wanted = expected.clip.encode_text(expected.tokenize(CAPTIONS), normalize=True).numpy()
    assert (1 - (found * wanted).sum(1)).max() < 1e-5
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_embedded_as_open_clip_does(family, tiny, loaded):
    expected, model = tiny(family), loaded(family)
    assert (ClassTokenTower.of(model.clip.visual) is not None) == (family in AT_THE_CLASS)
    pictures = [draw(n) for n in range(5)]
    found = model.encode_images([model.preprocess(picture) for picture in pictures], 8).numpy()
    wanted = np.stack([expected.embed_image(picture) for picture in pictures])
    assert (1 - (found * wanted).sum(1)).max() < 1e-5
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def shapes(module, work):
    """What a module is called with while something is done."""
    seen = []
    hook = module.register_forward_hook(lambda _, args, __: seen.append(tuple(args[0].shape[:-1])))
    work()
    hook.remove()
    return seen


@pytest.mark.parametrize("family", ["vit", "eos", "normed"])
def test_nothing_is_computed_behind_the_longest_caption_of_a_batch(family, loaded):
    model = loaded(family)
    first, *_, last = CausalTower.of(model.clip).parts.transformer.resblocks
    captions = ["one two three four", "one", "one two", "one two three"]
    # With the tokens of start and end.
    assert shapes(first, lambda: model.encode_captions(captions, batch_size=2)) == [(2, 4), (2, 6)]
    read = shapes(last.mlp, lambda: model.encode_captions(captions, batch_size=2))
    assert read == ([(2,), (2,)] if family in AT_THE_END else [(2, 4), (2, 6)])


def test_the_last_block_is_computed_for_the_class_token(loaded):
    model = loaded("vit")
    *_, before, last = model.clip.visual.transformer.resblocks
    pictures = [model.preprocess(draw(n)) for n in range(3)]
    assert shapes(last.mlp, lambda: model.encode_images(pictures, 4)) == [(4,)]
    assert shapes(before.mlp, lambda: model.encode_images(pictures, 4)) == [(4, 17)]


def test_facts(tiny):
    made = tiny("vit")
    facts = describe(made.config, made.weights)
    assert facts.weights_sha256 == hashlib.sha256(Path(made.weights).read_bytes()).hexdigest()
    assert (facts.embed_dim, facts.context_length, facts.image_size) == (32, 24, (32, 32))
    assert facts.logit_scale == pytest.approx(1 / 0.07)
    assert facts.logit_bias is None
    assert facts.preprocess["mean"] == list(open_clip.OPENAI_DATASET_MEAN)
    assert json.loads(json.dumps(dataclasses.asdict(facts)))["embed_dim"] == 32
    assert describe(tiny("sigmoid").config, tiny("sigmoid").weights).logit_bias == pytest.approx(-10)


def test_facts_tell_models_apart(tiny, tmp_path):
    made = tiny("vit")
    facts = describe(made.config, made.weights)
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear", "size": 999}
    hub = tmp_path / "open_clip_config.json"
    hub.write_text(json.dumps({"model_cfg": FAMILIES["vit"], "preprocess_cfg": preprocess}))
    other = describe(str(hub), made.weights)
    assert other.weights_sha256 == facts.weights_sha256
    assert other.config_sha256 != facts.config_sha256
    assert other.preprocess["interpolation"] == "bilinear"
    assert other.image_size == (32, 32)
    model = load(str(hub), made.weights, "fp32", CPU)
    assert model.preprocess.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_of_either_form_are_the_same_model(suffix, tiny):
    made = tiny("resnet")
    path = str(Path(made.weights).with_suffix(f".{suffix}"))
    assert describe(made.config, path).logit_scale == pytest.approx(1 / 0.07)
    model = load(made.config, path, "fp32", CPU)
    for key, value in made.clip.state_dict().items():
        assert torch.equal(model.clip.state_dict()[key], value), key
    assert not model.clip.training


def test_weights_that_are_not_those_that_the_run_began_with(tiny, tmp_path):
    made = tiny("vit")
    path = tmp_path / "weights.safetensors"
    path.write_bytes(Path(made.weights).read_bytes())
    began = describe(made.config, str(path)).weights_sha256
    load(made.config, str(path), "fp32", CPU, weights_sha256=began)
    changed(made, path, lambda state: state["visual.proj"].zero_())
    with pytest.raises(ModelError, match=r"weights \S+ are not those that the run began with"):
        load(made.config, str(path), "fp32", CPU, weights_sha256=began)


def test_weights_and_configs_at_a_url(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = tiny("vit")
    remote = fsspec.filesystem("memory")
    remote.pipe_file("/weights/tiny/config.json", Path(made.config).read_bytes())
    remote.pipe_file("/weights/tiny/weights.safetensors", Path(made.weights).read_bytes())
    where = "memory://weights/tiny/config.json", "memory://weights/tiny/weights.safetensors"
    assert describe(*where) == describe(made.config, made.weights)
    (copy,) = (tmp_path / "curate" / "weights").iterdir()
    # Another start reads the copy.
    monkeypatch.setattr(type(remote), "get_file", None)
    load(*where, "fp32", CPU)
    assert copy.read_bytes() == Path(made.weights).read_bytes()
    with pytest.raises(ModelError, match="do not exist"):
        describe(where[0], "memory://weights/none.safetensors")


@pytest.mark.parametrize(
    ("family", "precision"),
    [
        *(("vit", "bf16"), ("vit", "fp16"), ("resnet", "bf16"), ("custom_text", "bf16"), ("sigmoid", "bf16")),
        # Of these open_clip's conversion leaves a part as it was.
        *(("coca", "bf16"), ("coca", "fp16"), ("eos", "bf16"), ("eos", "fp16")),
    ],
)
def test_lower_precision_stays_near(family, precision, loaded):
    exact, lower = loaded(family), loaded(family, precision)
    images = [exact.preprocess(draw(i)) for i in range(6)]
    for a, b in (
        (exact.encode_images(images, 6), lower.encode_images(images, 6)),
        (exact.encode_captions(CAPTIONS, 4), lower.encode_captions(CAPTIONS, 4)),
    ):
        assert b.dtype == a.dtype
        assert (1 - (np.asarray(a) * np.asarray(b)).sum(1)).max() < 5e-3


def test_a_long_image_is_seen_in_its_middle(tiny, loaded):
    made, model = tiny("vit"), loaded("vit")
    image = draw(1, (1, 1200)).resize((2, 1200))
    whole = np.asarray(made.preprocess.transforms[1](made.preprocess.transforms[0](image)), np.int16)
    assert abs(model.preprocess(image).astype(np.int16) - whole.transpose(2, 0, 1)).max() <= 3
    # Resized whole, this one would take 20 GB.
    assert model.preprocess(image.resize((1, 60_000)).transpose(Image.Transpose.ROTATE_270)).shape == (3, 32, 32)


def test_a_name_that_nobody_knows():
    with pytest.raises(ModelError, match=r"knows no model 'ViT-B-23'; did you mean 'ViT-B-32'\?"):
        describe("ViT-B-23", "openai")
    with pytest.raises(ModelError, match=r"ViT-L-14 has no weights 'datacomp_xl_s13b_b90'; did you mean 'dat"):
        describe("ViT-L-14", "datacomp_xl_s13b_b90")
    with pytest.raises(ModelError, match="pretrained is missing"):
        describe("ViT-B-32", None)


def test_a_tag_is_fetched_and_loaded_by_open_clip(tiny, monkeypatch):
    """The download alone is replaced: there is no network here."""
    made = tiny("vit")
    asked = []
    tag = {"hf_hub": "somebody/tiny/", "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}

    def download(config, cache_dir=None):
        asked.append(config)
        return made.weights

    def known(model, name):
        return tag if name == "some_tag" else {}

    for module in ("open_clip", "open_clip.factory"):
        monkeypatch.setattr(f"{module}.download_pretrained", download)
        monkeypatch.setattr(f"{module}.get_pretrained_cfg", known)
    facts = describe(made.config, "some_tag")
    assert facts.preprocess["mean"] == [0.5, 0.5, 0.5]
    assert facts.weights_sha256 == describe(made.config, made.weights).weights_sha256
    assert load(made.config, "some_tag", "fp32", CPU).preprocess.std == (0.25, 0.25, 0.25)
    assert all(config == tag for config in asked)


def test_a_download_that_fails_is_one_line(monkeypatch):
    def download(config):
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr("open_clip.download_pretrained", download)
    with pytest.raises(ModelError, match="cannot be downloaded: We couldn't connect to the hub"):
        describe("ViT-B-32-quickgelu", "openai")


def test_a_tokenizer_that_cannot_be_had(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    config = tmp_path / "hf.json"
    text = {**FAMILIES["sigmoid"]["text_cfg"], "hf_tokenizer_name": "somebody/tokenizer"}
    config.write_text(json.dumps({**FAMILIES["sigmoid"], "text_cfg": text}))
    with pytest.raises(ModelError, match="transformers"):
        describe(str(config), tiny("sigmoid").weights)


def changed(made, path, change):
    state = load_file(made.weights)
    change(state)
    save_file(state, path)
    return str(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("visual.proj"), r"they lack visual\.proj$"),
        (lambda state: state.update(more=torch.zeros(1)), "the model lacks more$"),
        (
            lambda state: state.update({"visual.proj": torch.zeros(3, 2)}),
            r"visual\.proj is \[3, 2\], not \[64, 32\]$",
        ),
        (lambda state: [state.pop(k) for k in list(state) if "resblocks" in k], r"and \d+ more"),
    ],
)
def test_weights_that_do_not_fit(change, said, tiny, tmp_path):
    made = tiny("vit")
    path = changed(made, tmp_path / "weights.safetensors", change)
    with pytest.raises(ModelError, match=said) as raised:
        describe(made.config, path)
    assert "do not fit model" in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match=said):
        load(made.config, path, "fp32", CPU)


@pytest.mark.parametrize(
    ("tower", "key", "size", "said"),
    [
        ("vision_cfg", "image_size", 64, r"visual\.positional_embedding is \[17, 64\], not \[65, 64\]$"),
        ("text_cfg", "context_length", 77, r"positional_embedding is \[24, 32\], not \[77, 32\]$"),
        ("text_cfg", "context_length", 12, r"positional_embedding is \[24, 32\], not \[12, 32\]$"),
        ("text_cfg", "width", 64, r"positional_embedding is \[24, 32\], not \[24, 64\]$"),
    ],
)
@pytest.mark.parametrize("family", ["vit", "custom_text"])
def test_positions_are_not_stretched_to_fit(family, tower, key, size, said, tiny, tmp_path):
    """Open_clip does so, and its scores are then those of neither model."""
    made = tiny(family)
    config = tmp_path / "other.json"
    config.write_text(json.dumps({**FAMILIES[family], tower: {**FAMILIES[family][tower], key: size}}))
    for look in (describe, lambda name, pretrained: load(name, pretrained, "fp32", CPU)):
        with pytest.raises(ModelError, match=said if look is describe or key != "width" else "width changed"):
            look(str(config), made.weights)


def test_weights_of_a_text_tower_inside_the_model_fit_one_that_has_it_apart(tiny):
    assert describe(tiny("custom_text").config, tiny("vit").weights).embed_dim == 32


def test_weights_with_a_bias_that_the_model_lacks(tiny, tmp_path):
    path = changed(tiny("vit"), tmp_path / "w.safetensors", lambda s: s.update(logit_bias=torch.tensor(-10.0)))
    with pytest.raises(ModelError, match=r"the model lacks logit_bias .* init_logit_bias\)$"):
        describe(tiny("vit").config, path)


def test_a_tag_that_wants_another_activation_is_refused():
    with pytest.raises(ModelError, match=r"openai was trained with QuickGELU; name the model ViT-L-14-quickgelu$"):
        describe("ViT-L-14", "openai")


@pytest.mark.filterwarnings("ignore:`torch.jit.(script|save)` is deprecated:FutureWarning")
def test_a_program_is_not_taken_for_weights(tiny, tmp_path):
    """As OpenAI published its models."""
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "ViT-B-32.pt"))
    with pytest.raises(ModelError, match=r"are a program \(TorchScript\); save its state_dict, or use a tag$"):
        describe(tiny("vit").config, str(tmp_path / "ViT-B-32.pt"))


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("content", [b"", b"junk", b"text", b"\x00" * 200, b"{}" * 100, b"<!DOCTYPE html><html>"])
def test_files_that_hold_no_weights(content, suffix, tiny, tmp_path):
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot be loaded|is not a file of weights; is it a web page") as raised:
        describe(tiny("vit").config, str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [{}, [1, 2], {"visual.proj": Evil()}])
def test_pickles_that_hold_no_weights(content, tiny, tmp_path, capsys):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(ModelError, match=r"weights \S+ (cannot be loaded|are refused)"):
        describe(tiny("vit").config, str(path))
    assert capsys.readouterr().out == ""


def test_a_torn_file_of_weights(tiny, tmp_path):
    for suffix in ("pt", "safetensors"):
        path = tmp_path / f"torn.{suffix}"
        path.write_bytes(Path(tiny("vit").weights).with_suffix(f".{suffix}").read_bytes()[:100_000])
        with pytest.raises(ModelError, match="cannot be loaded"):
            describe(tiny("vit").config, str(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "lacks embed_dim, vision_cfg, text_cfg"),
        ('{"model_cfg": null}', "lacks embed_dim, vision_cfg, text_cfg"),
        (json.dumps({**FAMILIES["vit"], "text_cfg": []}), "its text_cfg is not an object"),
        (json.dumps({"model_cfg": FAMILIES["vit"], "preprocess_cfg": [1]}), "its preprocess_cfg is not an object"),
        ('{"embed_dim": 8, "vision_cfg": {}}', "lacks text_cfg"),
        (json.dumps({**FAMILIES["vit"], "vision_cfg": {"no_such_key": 1}}), r"vision_cfg\.no_such_key is not accepted"),
        (
            json.dumps({**FAMILIES["vit"], "text_cfg": {"vocab_size": 100, "width": 32, "heads": 2}}),
            "tokenizer has 49408 tokens, its text tower 100",
        ),
    ],
)
def test_configs_that_make_no_model(content, said, tiny, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ModelError, match=said):
        describe(str(path), tiny("vit").weights)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mean": [0.5]}, r"has mean \[0\.5\], not three numbers$"),
        ({"mean": "x"}, "has mean 'x', not three numbers$"),
        ({"std": [0.5, 0, 0.5]}, "not three numbers above 0$"),
        ({"interpolation": "nearest"}, "has interpolation 'nearest', not one of bicubic, bilinear, random$"),
        ({"resize_mode": "stretch"}, "has resize_mode 'stretch', not one of shortest, longest, squash$"),
        ({"mode": "L"}, "has mode 'L', not one of RGB$"),
    ],
)
def test_settings_that_make_no_preprocessing(settings, said, tiny, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_cfg": FAMILIES["vit"], "preprocess_cfg": settings}))
    with pytest.raises(ModelError, match=said):
        describe(str(path), tiny("vit").weights)


def test_files_that_are_not_there(tiny, tmp_path):
    with pytest.raises(ModelError, match=r"config \S+none\.json does not exist"):
        describe(str(tmp_path / "none.json"), tiny("vit").weights)
    with pytest.raises(ModelError, match=r"weights \S+none\.pt do not exist"):
        describe(tiny("vit").config, str(tmp_path / "none.pt"))
    with pytest.raises(ModelError, match=r"has no weights 'no_tag'; a file of weights ends in \.safetensors"):
        describe(tiny("vit").config, "no_tag")


def test_the_built_in_model_is_described():
    facts = describe("pocket", None)
    assert facts.weights_sha256 == hashlib.sha256((POCKET / "weights.safetensors").read_bytes()).hexdigest()
    assert facts.embed_dim == json.loads((POCKET / "config.json").read_text())["embed_dim"]
