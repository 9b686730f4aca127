"""A model's config says what a model is: nothing that it or the folders it names hold is run as a program."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import fsspec
import open_clip
import pytest
import torch
from helpers.embed_parts import FAMILIES, VISION
from helpers.said import errors
from helpers.small_tokenizer import train_tokenizer
from transformers import XLMRobertaConfig

from curate.commands.main import main
from curate.embed.model.config_keys import check_keys
from curate.embed.model.describe import describe
from curate.embed.model.loading import load
from curate.errors import ModelError

CPU = torch.device("cpu")
CODE = """
import pathlib
pathlib.Path({witness!r}).write_text("this was run")
from transformers import PretrainedConfig, PreTrainedTokenizerFast

class TheirConfig(PretrainedConfig):
    model_type = "theirs"

class TheirTokenizer(PreTrainedTokenizerFast):
    pass
"""
TEXT = FAMILIES["vit"]["text_cfg"]


@pytest.fixture
def witness(tmp_path):
    """The file that the tokenizer's program writes when it is run."""
    return tmp_path / "witness"


@pytest.fixture
def armed(tmp_path, witness, monkeypatch):
    """Writes a model whose tokenizer's folder holds a program, and says the path of its config.

    Whoever is asked whether it may run says yes.
    """
    monkeypatch.setattr("builtins.input", lambda _prompt="": "y")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "model"
    train_tokenizer(folder / "tokenizer", ["the quick brown fox jumps over the lazy dog"] * 5)
    (folder / "tokenizer" / "theirs.py").write_text(CODE.format(witness=str(witness)))

    def make(text=None, *, tokenizer=True, config=True):
        named = {"tokenizer_config.json": {"AutoTokenizer": [None, "theirs.TheirTokenizer"]}} if tokenizer else {}
        named |= {"config.json": {"AutoConfig": "theirs.TheirConfig"}} if config else {}
        for file, auto_map in named.items():
            path = folder / "tokenizer" / file
            content = json.loads(path.read_text()) if path.exists() else {"model_type": "theirs"}
            path.write_text(json.dumps({**content, "auto_map": auto_map, "tokenizer_class": "TheirTokenizer"}))
        text = {**TEXT, "hf_tokenizer_name": "tokenizer", **(text or {})}
        written = folder / "open_clip_config.json"
        written.write_text(json.dumps({"embed_dim": 32, "vision_cfg": VISION, "text_cfg": text}))
        return written

    return make


TRUSTING = {"tokenizer_kwargs": {"trust_remote_code": True}}


def test_a_config_that_trusts_code_is_refused_before_a_run_begins(armed, witness, tmp_path, capsys):
    config = armed(TRUSTING)
    (tmp_path / "list.csv").write_text("url,caption\nhttp://a/b.jpg,c\n")
    recipe = tmp_path / "recipe.yaml"
    model = {"name": str(config), "pretrained": str(tmp_path / "weights.safetensors")}
    source = {"paths": [str(tmp_path / "list.csv")]}
    content = {"version": 1, "source": source, "output": str(tmp_path / "run"), "models": {"theirs": model}}
    recipe.write_text(json.dumps(content))
    assert main(["run", str(recipe), "--until", "plan"]) == 2
    (said,) = errors(capsys.readouterr().err)
    assert f"{config}: text_cfg.tokenizer_kwargs.trust_remote_code is not accepted" in said
    assert not witness.exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("ask", [describe, lambda name, weights: load(name, weights, "fp32", CPU)])
@pytest.mark.parametrize("text", [TRUSTING, {}])
@pytest.mark.parametrize("files", [{"tokenizer": False}, {"config": False}, {}])
def test_no_program_of_a_tokenizer_is_run(ask, text, files, armed, witness, tiny):
    config = armed(text, **files)
    weights = tiny("vit").weights
    # Where transformers has a class of its own that does, that one is taken.
    with contextlib.suppress(ModelError):
        ask(str(config), weights)
    assert not witness.exists()


def test_a_tokenizer_that_needs_its_program_is_refused_with_its_folder(armed, tiny):
    config = armed()
    with pytest.raises(ModelError, match=r"tokenizer.* needs code of its own \(auto_map\), and Curate runs none"):
        describe(str(config), tiny("vit").weights)


def test_a_text_tower_that_needs_its_program_is_refused(armed, witness, tiny, tmp_path):
    armed()
    folder = tmp_path / "model" / "tokenizer"
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] |= {"AutoModel": "theirs.TheirModel"}
    (folder / "config.json").write_text(json.dumps(config))
    train_tokenizer(tmp_path / "plain", ["the quick brown fox"] * 5)
    text = {"hf_model_name": str(folder), "hf_tokenizer_name": str(tmp_path / "plain"), "context_length": 16}
    written = tmp_path / "model.json"
    written.write_text(json.dumps({"embed_dim": 32, "vision_cfg": VISION, "text_cfg": text}))
    for ask in (describe, lambda name, weights: load(name, weights, "fp32", CPU)):
        with pytest.raises(ModelError, match=r"text tower .* is of type 'theirs'; open_clip supports .*xlm-roberta"):
            ask(str(written), tiny("vit").weights)
        assert not witness.exists()


@pytest.mark.parametrize("value", ["kernels-community/flash-attn2", "flash_attention_2", "somebody/kernel"])
def test_a_text_tower_does_not_choose_kernels(value, tiny, tmp_path):
    """They would be downloaded from the hub, compiled, and run."""
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    XLMRobertaConfig(vocab_size=400, max_position_embeddings=40, **sizes).save_pretrained(tmp_path / "tower")
    path = tmp_path / "tower" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "attn_implementation": value}))
    train_tokenizer(tmp_path / "tokenizer", ["the quick brown fox"] * 5)
    text = {"hf_model_name": str(tmp_path / "tower"), "hf_tokenizer_name": "tokenizer", "context_length": 16}
    written = tmp_path / "model.json"
    written.write_text(json.dumps({"embed_dim": 32, "vision_cfg": VISION, "text_cfg": text}))
    with pytest.raises(ModelError, match=f"attn_implementation '{value}' is not accepted; known: eager, sdpa"):
        describe(str(written), tiny("vit").weights)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"hf_model_config": {"auto_map": {}}}, "hf_model_config"),
        ({"text_cfg": {**TEXT, "hf_model_config": {"auto_map": {}}}}, "text_cfg.hf_model_config"),
        (
            {"text_cfg": {**TEXT, "tokenizer_kwargs": {"reduction_mask": "syntax"}}},
            "text_cfg.tokenizer_kwargs.reduction",
        ),
        ({"text_cfg": {**TEXT, "tokenizer_kwargs": {"clean": {"a": 1}}}}, "text_cfg.tokenizer_kwargs.clean"),
        ({"text_cfg": {**TEXT, "tokenizer_kwargs": {"pad_token": [{}]}}}, "text_cfg.tokenizer_kwargs.pad_token"),
        ({"text_cfg": {**TEXT, "tokenizer_kwargs": [1]}}, "text_cfg.tokenizer_kwargs"),
        ({"text_cfg": {**TEXT, "norm_kwargs": {"device": "cuda"}}}, "text_cfg.norm_kwargs.device"),
        ({"multimodal_cfg": {"hf_model_name": "roberta-base"}}, "multimodal_cfg.hf_model_name"),
        ({"multimodal_cfg": {"tokenizer_kwargs": {"clean": "lower"}}}, "multimodal_cfg.tokenizer_kwargs"),
        ({"vision_cfg": {"timm_model_name": "hf-hub:somebody/tower"}}, "vision_cfg.timm_model_name"),
        ({"vision_cfg": {"timm_model_name": "local-dir:/tmp/tower"}}, "vision_cfg.timm_model_name"),
        ({"vision_cfg": {**VISION, "timm_kwargs": {}}}, "vision_cfg.timm_kwargs"),
    ],
)
def test_only_named_keys_are_accepted_at_any_depth(config, key, tmp_path):
    path = tmp_path / "model.json"
    path.write_text(json.dumps({**FAMILIES["vit"], **config}))
    with pytest.raises(ModelError) as caught:
        describe(str(path), str(tmp_path / "weights.safetensors"))
    assert str(caught.value).startswith(f"model config {path}: {key}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/etc/tokenizer", "../tokenizer", "~/tokenizer", "a/b/c", "."])
@pytest.mark.parametrize("key", ["hf_tokenizer_name", "hf_model_name"])
def test_a_config_from_elsewhere_names_no_folder_of_this_machine(name, key, tmp_path):
    path = f"memory://{tmp_path.name}/model.json"
    config = {**FAMILIES["vit"], "text_cfg": {**TEXT, key: name}}
    fsspec.filesystem("memory").pipe_file(path, json.dumps(config).encode())
    with pytest.raises(ModelError, match=rf"model config {path}: text_cfg\.{key} '.*' is not a name on the hub"):
        describe(path, str(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize("place", ["beside", "as the model"])
def test_a_config_in_a_folder_of_weights_is_held_to_the_same(place, armed, witness, tiny, tmp_path):
    config = armed(TRUSTING)
    os.link(tiny("vit").weights, config.with_name("open_clip_model.safetensors"))
    model = tiny("vit").config if place == "beside" else str(config)
    with pytest.raises(ModelError, match=r"open_clip_config\.json: text_cfg\.tokenizer_kwargs\.trust_remote_code"):
        describe(model, str(config.parent))
    assert not witness.exists()


def test_all_configs_of_open_clip_itself_are_accepted():
    """What its authors wrote is what other people's configs on the hub look like."""
    folder = Path(open_clip.__file__).parent / "model_configs"
    files = sorted(folder.glob("*.json"))
    assert len(files) > 100
    for file in files:
        check_keys(json.loads(file.read_text()), str(file), is_local=False)
