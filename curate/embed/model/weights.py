"""Resolves a model's name, path or URL to local files of its config and weights.

A name has one of three forms: `pocket` is built in; a name that ends in `.json` is an open_clip config file; every
other name is one of open_clip's. Weights are an open_clip tag, a file if they end in a file's extension, else a folder
with the layout of the hub's snapshots. Where safetensors and a pickle exist, safetensors are used: open_clip does so
for a tag, `_snapshot` for a folder.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import download_pretrained_from_hf

from curate.embed.model.config_keys import check_keys
from curate.embed.model.names import HUB, MODEL_KEY, POCKET, WEIGHT_FILES
from curate.errors import ModelError, nearest, one_line
from curate.store import Store, access_errors

_REGISTERED: set[str] = set()


@dataclass(frozen=True)
class Origin:
    """A model that open_clip can build, and the source of its weights.

    Attributes:
        label: the name that the user wrote, for messages.
        name: the name of the architecture in open_clip.
        config: the architecture, as in open_clip's config files.
        preprocess: preprocessing settings of a config file, with the architecture or with the weights.
        tokenizer: the local folder of a tokenizer that the config file names, or None.
        pretrained: an open_clip tag, or the path of a local file.
        is_tag: whether `pretrained` is a tag.
        key: the key of the model in the recipe, for messages.
        sources: the files and folders that the user named or that were found in them; of a tag none.
    """

    label: str
    name: str
    config: dict[str, Any]
    preprocess: dict[str, Any]
    pretrained: str
    is_tag: bool
    tokenizer: Path | None = None
    key: str = MODEL_KEY
    sources: tuple[str, ...] = ()

    def weights_file(self) -> Path:
        """Returns the local file of the weights; open_clip downloads a tag's weights once.

        Raises:
            ModelError: they cannot be downloaded.
        """
        if not self.is_tag:
            return Path(self.pretrained)
        tag = open_clip.get_pretrained_cfg(self.name, self.pretrained)
        # Downloads of the hub's client have a lock. open_clip's own downloads are written in place, so that another
        # process could read half a file.
        turn = contextlib.nullcontext() if tag.get("hf_hub") else _turn(str(tag.get("url")))
        try:
            with turn, quiet_hub():
                return Path(open_clip.download_pretrained(tag))
        # The errors of the hub's client and of urllib derive from these.
        except (OSError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"{self.key}.pretrained: {self.pretrained!r} of {self.name} cannot be downloaded: "
                f"{unreachable(error) or one_line(error)}; it may also be the path of a file or folder of weights"
            ) from error


def find(name: str, pretrained: str | None, endpoint: str | None = None, key: str = MODEL_KEY) -> Origin:
    """Returns the model that a name and its weights stand for; checks that both exist.

    Args:
        name: an open_clip model, one on the hub (`hf-hub:owner/model`), the path or URL of a config json, or `pocket`.
        pretrained: an open_clip tag, or the path or URL of weights or of a folder of them; None with `pocket` or a
            model on the hub, which have their own.
        endpoint: an S3 server other than AWS.
        key: the key of the model in the recipe, for messages.

    Raises:
        ModelError: the model or tag is unknown, or a file does not exist or is not a config.
    """
    label = f"{name} ({pretrained})" if pretrained else name
    preprocess: dict[str, Any] = {}
    tokenizer = None
    sources: list[str] = []
    if name == "pocket":
        sources.append(str(POCKET / "config.json"))
        pretrained = pretrained or str(POCKET / "weights.safetensors")
        known = _register(str(POCKET / "config.json"), "pocket", _read_config(str(POCKET / "config.json"), None)[0])
    elif name.startswith(HUB):
        sources.append(_from_hub(name, HF_CONFIG_NAME, key))
        config, preprocess = _read_config(sources[0], None, is_local=False)
        known = _register(name, "hub", config)
        pretrained = pretrained or _from_hub(name, None, key)
    elif name.endswith(".json"):
        sources.append(name)
        config, preprocess = _read_config(name, endpoint)
        tokenizer = _beside(name, config)
        if tokenizer:
            sources += [str(tokenizer), *map(str, sorted(tokenizer.rglob("*")))]
            config["text_cfg"]["hf_tokenizer_name"] = str(tokenizer)
        known = _register(name, re.sub(r"\W+", "-", name.rpartition("/")[2].removesuffix(".json")), config)
    else:
        known = name.replace("/", "-")
        names = [model for model in open_clip.list_models() if model not in _REGISTERED]
        if known not in names:
            raise ModelError(f"open_clip knows no model {name!r}{nearest(known, [*names, 'pocket'])}")
    config = open_clip.get_model_config(known)
    if pretrained is None:
        raise ModelError(f"model {name}: pretrained is missing: an open_clip tag or a path to weights")
    if tag := open_clip.get_pretrained_cfg(known, pretrained):
        if tag.get("quick_gelu") and not config.get("quick_gelu"):
            # open_clip only warns, and then computes with an activation that these weights were not trained with.
            raise ModelError(f"model {name}: {pretrained} was trained with QuickGELU; name the model {known}-quickgelu")
        return Origin(label, known, config, preprocess, pretrained, is_tag=True, tokenizer=tokenizer, key=key)
    if not pretrained.endswith(WEIGHT_FILES):
        files = _files(pretrained, endpoint)
        if not files:
            tags = open_clip.list_pretrained_tags_by_model(known)
            hint = nearest(pretrained, tags) or f"; a file of weights ends in {', '.join(WEIGHT_FILES)}"
            raise ModelError(f"model {name} has no weights {pretrained!r}{hint}")
        if HF_CONFIG_NAME in files:
            preprocess = preprocess or _preprocess_beside(pretrained, name, config, tokenizer, endpoint)
            sources.append(f"{pretrained.rstrip('/')}/{HF_CONFIG_NAME}")
        sources.append(pretrained)
        pretrained = _snapshot(pretrained, files)
    file = str(local_file(pretrained, endpoint))
    sources.append(pretrained)
    return Origin(
        label, known, config, preprocess, file, is_tag=False, tokenizer=tokenizer, key=key, sources=tuple(sources)
    )


def is_tag(name: str, pretrained: str) -> bool:
    """Returns whether open_clip has weights of that tag for that model."""
    return bool(open_clip.get_pretrained_cfg(name.replace("/", "-"), pretrained))


def digest(file: Path) -> str:
    """Returns the SHA-256 of a file, in hex digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def unreachable(error: BaseException) -> str:
    """Returns the reason why a library could not reach its server; '' where the error has another cause."""
    reason = ""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, ConnectionError | TimeoutError | socket.gaierror):
            reason = f"no connection ({one_line(at)})"
        at = at.__cause__ or at.__context__
    return reason


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Silences what the hub's client logs of each retry; its final error states the cause."""
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _read_config(
    path: str, endpoint: str | None, *, is_local: bool | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads architecture and preprocessing from a config file in open_clip's form or in the Hugging Face hub's.

    Args:
        path: path or URL of the file.
        endpoint: an S3 server other than AWS.
        is_local: whether the user put it on this machine; by default, whether it has a local path.

    Raises:
        ModelError: the file does not exist, is not a config, or has keys that are not accepted (`config_keys`).
    """
    folder, _, file = path.rpartition("/")
    try:
        content = json.loads(Store(folder or ("/" if path.startswith("/") else "."), endpoint).read(file))
    except FileNotFoundError as error:
        raise ModelError(f"model config {path} does not exist") from error
    except access_errors(path) as error:
        raise ModelError(f"model config {path} cannot be read: {one_line(error)}") from error
    content = content if isinstance(content, dict) else {}
    config = content.get("model_cfg", content)
    config = config if isinstance(config, dict) else {}
    preprocess = content.get("preprocess_cfg", {})
    lacking = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in config]
    if lacking:
        raise ModelError(f"{path} is not an open_clip model config: it lacks {', '.join(lacking)}")
    for key, value in (*config.items(), ("preprocess_cfg", preprocess)):
        if key.endswith("_cfg") and not isinstance(value, dict):
            raise ModelError(f"{path} is not an open_clip model config: its {key} is not an object")
    check_keys(config, path, is_local="://" not in path if is_local is None else is_local)
    # The size of the vision tower takes precedence over that of the preprocessing.
    return config, {key: value for key, value in preprocess.items() if key != "size"}


def _from_hub(name: str, file: str | None, key: str) -> str:
    """Returns the local path of a file of a model on the hub, by default its weights; it is downloaded once."""
    try:
        with quiet_hub():
            return str(download_pretrained_from_hf(name.removeprefix(HUB), filename=file))
    except (OSError, RuntimeError, ValueError) as error:
        reason = unreachable(error) or one_line(error)
        raise ModelError(f"{key}.name: {name!r} cannot be downloaded: {reason}") from error


def _files(folder: str, endpoint: str | None) -> list[str]:
    """Returns the names of the files in a folder; empty where it is not a folder."""
    if "://" not in folder and not Path(folder).is_dir():
        return []
    try:
        return Store(folder, endpoint).names("")
    except access_errors(folder) as error:
        raise ModelError(f"weights {folder} cannot be read: {one_line(error)}") from error


def _snapshot(folder: str, files: Sequence[str]) -> str:
    """Returns the file of weights in a folder with the layout of the hub's snapshots: safetensors before a pickle."""
    for file in (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME):
        if file in files:
            return f"{folder.rstrip('/')}/{file}"
    raise ModelError(f"weights {folder}: the folder has neither {HF_SAFE_WEIGHTS_NAME} nor {HF_WEIGHTS_NAME}")


def _preprocess_beside(
    folder: str, name: str, config: Mapping[str, Any], tokenizer: Path | None, endpoint: str | None
) -> dict[str, Any]:
    """Returns the preprocessing in the config of a folder of weights, and checks that its architecture is the model's.

    Weights may load into an architecture that differs in something without weights (quick_gelu); its scores would be
    wrong without an error.
    """
    path = f"{folder.rstrip('/')}/{HF_CONFIG_NAME}"
    theirs, preprocess = _read_config(path, endpoint)
    if tokenizer:
        # The model's own tokenizer is the one that its config file names.
        theirs["text_cfg"]["hf_tokenizer_name"] = str(tokenizer)
    if theirs != config:
        differs = ", ".join(key for key in sorted({*theirs, *config}) if theirs.get(key) != config.get(key))
        raise ModelError(f"model {name} differs from that of {path} ({differs}); name that file as the model")
    return preprocess


def _beside(path: str, config: Mapping[str, Any]) -> Path | None:
    """Returns the local tokenizer folder that a config file names, relative to the file, or None where none exists."""
    named = config["text_cfg"].get("hf_tokenizer_name")
    if not named or "://" in path:
        return None
    folder = (Path(path).parent / str(named)).resolve()
    return folder if folder.is_dir() else None


def _register(path: str, stem: str, config: dict[str, Any]) -> str:
    """Registers a config file as an architecture in open_clip, which then loads it as any other; returns its name.

    The name contains a digest of the content, so two files that are both called config.json get different names.
    """
    text = json.dumps(config, sort_keys=True)
    name = f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if name not in _REGISTERED:
        with tempfile.TemporaryDirectory(prefix="curate-") as folder:
            file = Path(folder) / f"{name}.json"
            file.write_text(text)
            open_clip.add_model_config(file)
        if open_clip.get_model_config(name) is None:
            raise ModelError(f"open_clip does not accept {path} as a model config")
        _REGISTERED.add(name)
    return name


def local_file(path: str, endpoint: str | None) -> Path:
    """Returns a local file with the content of a path or URL; a remote file is copied once per machine and version."""
    folder, _, file = path.rpartition("/")
    store = Store(folder or ("/" if path.startswith("/") else "."), endpoint)
    try:
        if root := store.local_root:
            if not (root / file).is_file():
                raise FileNotFoundError
            return root / file
        # The version is the server's metadata of the object: its ETag, size and date.
        version = f"{store.path(file)} {store.fs.ukey(store.path(file))}"
        cached = _cache() / f"{hashlib.sha256(version.encode()).hexdigest()[:32]}{Path(file).suffix}"
        if not cached.is_file():
            with _turn(cached.name):
                # The process that held the lock before has copied it.
                if not cached.is_file():
                    _copy(store, file, cached)
    except FileNotFoundError as error:
        raise ModelError(f"weights {path} do not exist") from error
    except access_errors(path) as error:
        raise ModelError(f"weights {path} cannot be read: {one_line(error)}") from error
    return cached


def _copy(store: Store, file: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        store.download(file, scratch)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def _turn(what: str) -> Iterator[None]:
    """Holds a lock by name, so that one process of this machine at a time downloads a file; freed if it dies."""
    locks = _cache().with_name("locks")
    with contextlib.ExitStack() as held:
        # Where no lock can be taken (the cache cannot be written, or the file system has no locks), each process
        # downloads the file by itself.
        with contextlib.suppress(OSError):
            locks.mkdir(parents=True, exist_ok=True)
            # The lock file is never deleted: a process that waits for a deleted file and one that creates it again
            # would hold two different locks.
            lock = held.enter_context((locks / hashlib.sha256(what.encode()).hexdigest()[:32]).open("wb"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "curate" / "weights"
