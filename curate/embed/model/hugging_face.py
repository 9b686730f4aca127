"""Loads tokenizers and checks text towers of Hugging Face without running the Python files that they bring.

A tokenizer or a text tower, on the hub or in a folder, may contain Python files; its `auto_map` names the classes in
them. Where transformers has no class of its own for it, transformers asks in the terminal whether to run these files.
Curate never runs them.
"""

from typing import Any

import open_clip
from open_clip.hf_configs import arch_dict
from open_clip.hf_model import PretrainedConfig

from curate.embed.model import weights
from curate.errors import ModelError

_ATTENTION = ("eager", "sdpa")
"""The implementations of attention in torch; others are compiled code that transformers downloads from the hub."""


def open_tokenizer(origin: weights.Origin) -> Any:
    """Loads a model's tokenizer by open_clip's `get_tokenizer`.

    Raises:
        ModelError: the tokenizer needs Python code of its own.
    """
    name = origin.config["text_cfg"].get("hf_tokenizer_name")
    if not name:
        return open_clip.get_tokenizer(origin.name)
    try:
        return open_clip.get_tokenizer(origin.name, trust_remote_code=False)
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"model {origin.label}: its tokenizer {name} needs code of its own (auto_map), and Curate runs none"
            ) from error
        raise


def check_text_tower(origin: weights.Origin) -> None:
    """Checks that a Hugging Face text tower is built by the code of transformers; other text towers pass.

    Raises:
        ModelError: its config has a type that open_clip does not support, or names compiled code.
    """
    name = origin.config["text_cfg"].get("hf_model_name")
    if not name:
        return
    config, _ = PretrainedConfig.get_config_dict(name)
    tower = f"model {origin.label}: its text tower {name}"
    if config.get("model_type") not in arch_dict:
        known = ", ".join(sorted(arch_dict))
        raise ModelError(f"{tower} is of type {config.get('model_type')!r}; open_clip supports {known}")
    for key, value in config.items():
        if key in ("attn_implementation", "_attn_implementation") and value not in (None, *_ATTENTION):
            raise ModelError(f"{tower}: {key} {value!r} is not accepted; known: {', '.join(_ATTENTION)}")
