"""Checks the keys of a model's config: accepts those that describe a model, refuses those that could run code.

A config is an untrusted file, and open_clip passes parts of it on unchecked: `text_cfg.tokenizer_kwargs` goes to
`AutoTokenizer.from_pretrained`, where `trust_remote_code` runs a program beside the tokenizer. So each key is accepted
by name, at every depth, and every other key is refused, including those that a later open_clip may add or that choose
what is downloaded.
"""

import re
from collections.abc import Mapping
from typing import Any

from curate.errors import ModelError, nearest

_NORM = {"eps": None, "elementwise_affine": None, "bias": None}
_ACT = {"approximate": None}
_BLOCKS = {
    **dict.fromkeys(
        ("width", "layers", "mlp_ratio", "ls_init_value", "output_tokens", "pool_type", "final_ln_after_pool")
    ),
    **dict.fromkeys(("block_type", "qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn")),
    "scale_fc": None,
    "act_kwargs": _ACT,
    "norm_kwargs": _NORM,
}
_VISION = {
    **_BLOCKS,
    **dict.fromkeys(("head_width", "patch_size", "image_size", "patch_dropout", "no_ln_pre", "pos_embed_type")),
    **dict.fromkeys(("attentional_pool", "attn_pooler_queries", "attn_pooler_heads")),
    # `timm_model_pretrained` has no effect: create_model sets it, to false.
    **dict.fromkeys(("timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias")),
    **dict.fromkeys(("timm_drop", "timm_drop_path")),
}
_DECODER = {
    **_BLOCKS,
    **dict.fromkeys(("context_length", "vocab_size", "heads", "embed_cls", "pad_id", "eos_id", "no_causal_mask")),
    **dict.fromkeys(("proj_bias", "proj_type")),
}
_TOKENIZER = {
    # open_clip's own.
    **dict.fromkeys(("clean", "strip_sep_token", "language")),
    # Of transformers' tokenizers: the special tokens, and where they are inserted. Not `reduction_mask`, which
    # downloads models of NLTK, and no keys that name files or revisions.
    **dict.fromkeys(("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")),
    **dict.fromkeys(("add_bos_token", "add_eos_token", "add_prefix_space", "do_lower_case", "legacy", "use_fast")),
    **dict.fromkeys(("model_max_length", "padding_side", "truncation_side", "src_lang")),
}
_TEXT = {
    **_DECODER,
    # `hf_model_pretrained` has no effect: create_model sets it, to false.
    **dict.fromkeys(("hf_model_name", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type")),
    **dict.fromkeys(("hf_tokenizer_name", "tokenizer_mode")),
    "tokenizer_kwargs": _TOKENIZER,
}
_CONFIG: dict[str, Any] = {
    **dict.fromkeys(("embed_dim", "quick_gelu", "custom_text", "init_logit_scale", "init_logit_bias")),
    **dict.fromkeys(("nonscalar_logit_scale", "pad_id")),
    "vision_cfg": _VISION,
    "text_cfg": _TEXT,
    "multimodal_cfg": {**_DECODER, **dict.fromkeys(("dim_head", "n_queries", "attn_pooler_heads"))},
}
"""Every accepted key, with None where it holds a plain value or a list of these, else the accepted keys of its object.
"""

_HUB_NAME = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
_TIMM_NAME = re.compile(r"[\w.-]+", re.ASCII)


def check_keys(config: Mapping[str, Any], path: str, *, is_local: bool) -> None:
    """Raises ModelError where a config has a key that is not accepted.

    Args:
        config: the architecture, as in open_clip's config files.
        path: path of its file, for messages.
        is_local: whether the user put the file on this machine. Then it may name folders of this machine; a config from
            the hub or a bucket may only name tokenizers and text towers on the hub.

    Raises:
        ModelError: the first key that is not accepted.
    """
    _check(config, _CONFIG, "", path)
    timm_name = config.get("vision_cfg", {}).get("timm_model_name")
    if timm_name is not None and not _TIMM_NAME.fullmatch(str(timm_name)):
        # For a name of another form, timm would read the architecture and its arguments from a folder or the hub.
        raise ModelError(f"model config {path}: vision_cfg.timm_model_name {timm_name!r} is not a name of timm's own")
    for key in ("hf_tokenizer_name", "hf_model_name"):
        name = config.get("text_cfg", {}).get(key)
        if name and not is_local and not _HUB_NAME.fullmatch(str(name)):
            raise ModelError(
                f"model config {path}: text_cfg.{key} {name!r} is not a name on the hub (owner/name); "
                "only a config file on this machine may name folders"
            )


def _check(config: Mapping[str, Any], accepted: Mapping[str, Any], within: str, path: str) -> None:
    for key, value in config.items():
        if key not in accepted:
            raise ModelError(
                f"model config {path}: {within}{key} is not accepted: a config describes a model, it runs no code "
                f"and names no other sources{nearest(key, accepted)}"
            )
        inner = accepted[key]
        if inner is not None and isinstance(value, Mapping):
            _check(value, inner, f"{within}{key}.", path)
        elif not (_is_plain(value) or (inner is None and isinstance(value, list) and all(map(_is_plain, value)))):
            kind = "a value or a list of values" if inner is None else "an object"
            raise ModelError(f"model config {path}: {within}{key} is not accepted: its value has to be {kind}")


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)
