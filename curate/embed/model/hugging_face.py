"""What open_clip takes from transformers, tokenizers and text towers: loaded without running a program of theirs.

A tokenizer or a text tower, on the hub or in a folder, may bring Python files; its `auto_map` says which class is in
them. Where transformers has no class of its own for it, transformers asks in the terminal whether to run them. Curate
never runs them.
"""

from typing import Any

import open_clip
from open_clip.hf_configs import arch_dict
from open_clip.hf_model import PretrainedConfig

from curate.embed.model import weights
from curate.errors import ModelError

_ATTENTION = ("eager", "sdpa")
"""The implementations of attention that are torch's own; the others are compiled code, fetched from the hub."""


def open_tokenizer(origin: weights.Origin) -> Any:
    """A model's tokenizer, by open_clip's `get_tokenizer`.

    Raises:
        ModelError: it needs a program of its own.
    """
    name = origin.config["text_cfg"].get("hf_tokenizer_name")
    if not name:
        return open_clip.get_tokenizer(origin.name)
    try:
        return open_clip.get_tokenizer(origin.name, trust_remote_code=False)
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"model {origin.label}: its tokenizer {name} needs a program of its own (auto_map), and none is run"
            ) from error
        raise


def check_text_tower(origin: weights.Origin) -> None:
    """Makes sure that a model's text tower, where it is one of transformers', is built by code of transformers.

    Raises:
        ModelError: its config is of a type that open_clip does not know, or names compiled code.
    """
    name = origin.config["text_cfg"].get("hf_model_name")
    if not name:
        return
    config, _ = PretrainedConfig.get_config_dict(name)
    said = f"model {origin.label}: its text tower {name}"
    if config.get("model_type") not in arch_dict:
        known = ", ".join(sorted(arch_dict))
        raise ModelError(f"{said} is of type {config.get('model_type')!r}; open_clip knows {known}")
    for key, value in config.items():
        if key in ("attn_implementation", "_attn_implementation") and value not in (None, *_ATTENTION):
            raise ModelError(f"{said}: {key} {value!r} is not accepted; known: {', '.join(_ATTENTION)}")
