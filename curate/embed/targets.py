"""Embeds target images with a model's image tower, once per run, for the signals of similarity to target images."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import torch
from PIL import Image, ImageOps
from torch import Tensor

from curate.device import choose_device, gpu_failures
from curate.embed.batch import BatchSize, embed_images
from curate.embed.decode.images import decode
from curate.embed.model.towers import Model
from curate.embed.model.weights import one_line
from curate.embed.worker import ModelSettings
from curate.errors import RecipeError
from curate.store import Inputs, Outputs, Store, access_errors

MOST = 10_000
"""Most images in one set: every image of the run is compared with each of them."""

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif")
_AT_ONCE = 16


@dataclass(frozen=True)
class TargetImage:
    """A target image: its path, and the sha256 of its bytes."""

    path: str
    sha256: str


def find(where: str, paths: Sequence[str], endpoint: str | None = None) -> list[TargetImage]:
    """Returns the images that files, folders and globs name: distinct contents, sorted by digest.

    Args:
        where: the key in the recipe, for errors.
        paths: files, folders and globs, as in the recipe.
        endpoint: an S3 server other than AWS.

    Raises:
        RecipeError: a path names no image or cannot be read, or there are more than `MOST`.
    """
    files: dict[str, None] = {}
    for path in paths:
        try:
            matched = _match(path, endpoint)
        except FileNotFoundError as error:
            raise RecipeError(f"{where}: {path} does not exist") from error
        except access_errors(path) as error:
            raise RecipeError(f"{where}: {path} cannot be read: {one_line(error)}") from error
        if not matched:
            raise RecipeError(f"{where}: {path} names no image ({', '.join(_IMAGES)})")
        files |= dict.fromkeys(matched)
    if len(files) > MOST:
        raise RecipeError(f"{where}: {len(files):,} images; a set holds {MOST:,} at most")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        digests = pool.map(lambda path: hashlib.sha256(_read(where, path, endpoint)).hexdigest(), files)
        by_digest = {digest: path for path, digest in zip(files, digests, strict=True)}
    return [TargetImage(path, digest) for digest, path in sorted(by_digest.items())]


def open_worker(settings: Mapping[str, Any]) -> "TargetEmbedder":
    """Returns a worker that embeds target images.

    Args:
        settings: `models` (the recipe's, by short name), `sets` (by folder: `model`, `where`, and `images` as `find`
            returned them), `device`, `endpoint`.

    Raises:
        UsageError: the device does not exist here.
    """
    models = {name: ModelSettings(**model) for name, model in settings["models"].items()}
    return TargetEmbedder(models, settings["sets"], choose_device(settings["device"]), settings["endpoint"])


@dataclass
class TargetEmbedder:
    """Embeds sets of images; a model is loaded when a set first needs it."""

    models: Mapping[str, ModelSettings]
    sets: Mapping[str, Any]
    device: torch.device
    endpoint: str | None
    _loaded: dict[str, tuple[Model, BatchSize]] = field(default_factory=dict)

    def __call__(self, _unit: int, _inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        """Writes `prompts.parquet` (prompt: an image's digest, embedding) of each set.

        Raises:
            RecipeError: an image cannot be read or decoded, or changed since the run began.
            ModelError: the model cannot be loaded, its embeddings are not finite, or memory does not hold a batch.
            DeviceLost: the GPU failed; this process cannot use it any more.
        """
        with gpu_failures(self.device):
            for folder, output in outputs.items():
                self._write(folder, output)

    def _write(self, folder: str, output: Outputs) -> None:
        target_set = self.sets[folder]
        where = target_set["where"]
        chosen = replace(self.models[target_set["model"]], **target_set.get("how", {}))
        model, size = self._model(target_set["model"], chosen)
        torch.set_num_threads(chosen.threads)
        images = [TargetImage(**image) for image in target_set["images"]]
        embedded: list[Tensor] = []
        for start in range(0, len(images), size.asked):
            crops = [self._prepared(where, model, image) for image in images[start : start + size.asked]]
            embedded += embed_images(model, size, crops)
        embeddings = chosen.numbers(torch.cat(embedded))
        column = pa.array(list(embeddings), pa.list_(pa.float32(), model.dim))
        digests = [image.sha256 for image in images]
        output.put_table("prompts.parquet", pa.table({"prompt": digests, "embedding": column}))
        output.counts.update(images=len(images))
        if size.note:
            output.notes.append(size.note)

    def _model(self, name: str, chosen: ModelSettings) -> tuple[Model, BatchSize]:
        if name not in self._loaded:
            self._loaded[name] = chosen.load(self.device, self.endpoint)
        return self._loaded[name]

    def _prepared(self, where: str, model: Model, image: TargetImage) -> Any:
        """Returns the model's input for an image, turned upright and composited on white as fetch would store it."""
        data = _read(where, image.path, self.endpoint)
        if hashlib.sha256(data).hexdigest() != image.sha256:
            raise RecipeError(f"{where}: {image.path} changed during the run; start it again")
        decoded = decode(data)
        if decoded is None:
            raise RecipeError(f"{where}: {image.path} cannot be decoded; leave it out")
        if decoded.mode.startswith(("I", "F")):
            # Pillow would clip values above 255 to white, where fetch scales them.
            raise RecipeError(f"{where}: {image.path} has more than 8 bits a pixel; save it with 8")
        upright = ImageOps.exif_transpose(decoded)
        if upright.has_transparency_data:
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright.convert("RGBA")).convert("RGB")
        return model.preprocess(upright)


def _match(path: str, endpoint: str | None) -> list[str]:
    fs = Store(path, endpoint).fs
    names = (
        [path]
        if fs.isfile(path)
        else fs.glob(path)
        if re.search(r"[*?\[]", path)
        else fs.find(path)
        if fs.isdir(path)
        else None
    )
    if names is None:
        raise FileNotFoundError(path)
    spelt = [str(fs.unstrip_protocol(name)) if "://" in path else str(name) for name in names]
    return sorted(name for name in spelt if name.lower().endswith(_IMAGES))


def _read(where: str, path: str, endpoint: str | None) -> bytes:
    folder, _, file = path.rpartition("/")
    try:
        return Store(folder or ("/" if path.startswith("/") else "."), endpoint).read(file)
    except access_errors(path) as error:
        raise RecipeError(f"{where}: {path} cannot be read: {one_line(error)}") from error
