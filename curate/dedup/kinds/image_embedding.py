"""`by: image_embedding`: images whose embeddings by the first model have a high cosine."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curate.dedup.nodes import PartImages, collect
from curate.duplicates import NearKind, Search
from curate.errors import BrokenResult, counted, short
from curate.keys import Keys
from curate.store import Folder, Inputs, Json, Outputs


class ImageEmbeddingKeys(Keys):
    """The key of a step that drops near embeddings."""

    above: Annotated[float, Field(gt=0, le=1)] = Field(
        description="With image_embedding: images with this cosine or more are duplicates."
    )


class CosineSearch(Keys):
    """The search for near embeddings."""

    floor: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.9,
        description="The search stores pairs with this cosine or more; `above` of a step may be changed down to this "
        "floor without another search.",
    )
    tile: Annotated[int, Field(ge=1, le=65_536)] = Field(
        4096, description="Images in one side of a tile of the search; bounds its memory."
    )


class ImageEmbedding(NearKind):
    """All pairs of embeddings by the first model (`curate.dedup.search`)."""

    name = "image_embedding"
    about = "a cosine at `above` or more"
    keys = ImageEmbeddingKeys
    section = CosineSearch
    # Every image that could be decoded has an embedding.
    column = "decoded"
    measure = "cosine"
    wants_gpu = True

    def words(self, keys: ImageEmbeddingKeys) -> str:
        """See `DuplicateKind`."""
        return f"cosine ≥ {short(keys.above)}"

    def threshold(self, keys: ImageEmbeddingKeys) -> float:
        """See `NearKind`."""
        return keys.above

    def not_searched(self, keys: ImageEmbeddingKeys, dedup: Any) -> str:
        """See `NearKind`."""
        if keys.above >= dedup.floor:
            return ""
        return f"above {keys.above} is below dedup.floor {dedup.floor}; lower dedup.floor"

    def reads(self, models: Sequence[str]) -> list[str]:
        """See `NearKind`."""
        return ["fetch", f"embed-{models[0]}"]

    def depends(self, dedup: Any) -> Json:
        """See `NearKind`."""
        return {"floor": dedup.floor}

    def settings(self, recipe: Any) -> Json:
        """See `NearKind`."""
        model = next(iter(recipe.models))
        return {
            "floor": recipe.dedup.floor,
            "tile": recipe.dedup.tile,
            "model": model,
            "device": recipe.device("dedup"),
            "threads": recipe.models[model].threads,
        }

    def open(self, settings: Json) -> Search:
        """See `NearKind`."""
        # Imported here, as a process that only reads a recipe does not need torch.
        import torch

        from curate.dedup.search import near_pairs
        from curate.device import choose_device, gpu_failures, without_tf32

        device = choose_device(settings["device"])
        torch.set_num_threads(settings["threads"])
        # The margin of the search is computed for float32; TF32 would need a margin a thousand times as wide.
        without_tf32()

        def search(inputs: Inputs, folder: Path, out: Outputs) -> Iterator[pa.Table]:
            fetch, embed = inputs["fetch"], inputs[f"embed-{settings['model']}"]
            nodes = collect(lambda part: _images(fetch, embed, part), inputs.parts, folder, embed.path)
            out.counts.update(images=nodes.images, digests=len(nodes.digests))
            if nodes.unusable:
                left_out = counted(nodes.unusable, "image was", "images were")
                out.notes.append(f"{left_out} not compared: the embedding is zero or not finite")
            with gpu_failures(device):
                floor, tile, threads = settings["floor"], settings["tile"], settings["threads"]
                for i, j, cosine in near_pairs(nodes.values, floor, tile, device, folder, threads=threads):
                    yield nodes.near(i, j, cosine)

        return search


def _images(fetch: Folder, embed: Folder, part: int) -> PartImages:
    fetched = fetch.table("images.parquet", part, ["image_id", "sha256"])
    embedded = embed.table("images.parquet", part, ["image_id", "image_embedding"])
    if not fetched["image_id"].equals(embedded["image_id"]):
        raise BrokenResult(f"{embed.path}: part {part} does not list the images of {fetch.path}")
    dim = embedded.schema.field("image_embedding").type.list_size
    present = pc.and_(pc.is_valid(fetched["sha256"]), pc.is_valid(embedded["image_embedding"]))
    fetched, vectors = fetched.filter(present), _vectors(embedded["image_embedding"].filter(present), dim)
    usable = np.logical_and(np.isfinite(vectors).all(axis=1), vectors.any(axis=1))
    return PartImages(fetched.filter(pa.array(usable)), vectors[usable], int(len(usable) - usable.sum()))


def _vectors(column: pa.ChunkedArray, dim: int) -> npt.NDArray[np.float16]:
    values: npt.NDArray[np.float16] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, dim)


KIND = ImageEmbedding()
