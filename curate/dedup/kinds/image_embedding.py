"""`by: image_embedding`: images whose embeddings by one model have a high cosine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curate.account import Account
from curate.dedup.cosine import cosine, cosines, reach
from curate.duplicates import NearKind, PartImages, Search, Stored
from curate.errors import BrokenResult, nearest, short
from curate.keys import Keys, Name
from curate.store import Inputs, Json

if TYPE_CHECKING:
    import torch


Floor = Annotated[float, Field(gt=0, lt=1)]


class ImageEmbeddingKeys(Keys):
    """The keys of a step that drops near embeddings."""

    above: Annotated[float, Field(gt=0, le=1)] = Field(
        description="With image_embedding: images with this cosine or more are duplicates."
    )
    model: Name | None = Field(
        None,
        description="With image_embedding: short name of the model whose embeddings are compared; null: the first.",
    )


class CosineSearch(Keys):
    """The search for near embeddings."""

    floor: Floor = Field(
        0.9,
        description="The search stores pairs with this cosine or more; `above` of a step may be changed down to this "
        "floor without another search.",
    )
    floors: dict[Name, Floor] = Field(
        {},
        description="By the short name of another model than the first: the floor of its search; by default `floor`.",
        max_length=16,
    )
    tile: Annotated[int, Field(ge=1, le=65_536)] = Field(
        4096, description="Images in one side of a tile of the search; bounds its memory."
    )


class ImageEmbedding(NearKind):
    """All pairs of embeddings by a model (`curate.dedup.search`)."""

    name = "image_embedding"
    about = "a cosine at `above` or more"
    keys = ImageEmbeddingKeys
    stored = Stored("image_embedding")
    section = CosineSearch
    # At 512 values 280 MB, and as much for each of two short vectors.
    block_rows = 1 << 18
    # Every image that could be decoded has an embedding.
    column = "decoded"
    measure = "cosine"
    left_out = "no embedding of unit length"
    wants_gpu = True

    def words(self, keys: ImageEmbeddingKeys) -> str:
        """See `DuplicateKind`."""
        by = f" by {self.model}" if self.model else ""
        return f"cosine ≥ {short(keys.above)}{by}"

    def threshold(self, keys: ImageEmbeddingKeys) -> float:
        """See `NearKind`."""
        return keys.above

    def not_searched(self, keys: ImageEmbeddingKeys, dedup: Any) -> str:
        """See `NearKind`."""
        floor = self._floor(dedup)
        if keys.above >= floor:
            return ""
        if self.model is None:
            return f"above {keys.above} is below dedup.floor {floor}; lower dedup.floor to {keys.above}"
        own = f"dedup.floors.{self.model}"
        named = own if self.model in dedup.floors else "dedup.floor"
        return (
            f"above {keys.above} is below {named} {floor}; {'lower' if named == own else 'set'} {own} to {keys.above}"
        )

    def check_section(self, dedup: Any, models: Sequence[str]) -> None:
        """See `NearKind`."""
        for name in dedup.floors:
            if name == models[0]:
                raise ValueError(f"dedup.floors.{name}: {name} is the first model, whose floor is dedup.floor")
            if name not in models:
                raise ValueError(f"dedup.floors.{name}: there is no model {name!r}{nearest(name, models)}")

    def reads(self, models: Sequence[str]) -> list[str]:
        """See `NearKind`."""
        return ["fetch", f"embed-{self.model or models[0]}"]

    def depends(self, dedup: Any) -> Json:
        """See `NearKind`."""
        return {"floor": self._floor(dedup)}

    def settings(self, recipe: Any) -> Json:
        """See `NearKind`."""
        model = self.model or next(iter(recipe.models))
        return {
            "floor": self._floor(recipe.dedup),
            "tile": recipe.dedup.tile,
            "model": model,
            "device": recipe.device("dedup"),
            "threads": recipe.models[model].threads,
        }

    def images(self, inputs: Inputs, part: int, settings: Json) -> PartImages:
        """See `NearKind`."""
        fetch, embed = inputs["fetch"], inputs[f"embed-{settings['model']}"]
        fetched = fetch.table("images.parquet", part, ["image_id", "sha256"])
        embedded = embed.table("images.parquet", part, ["image_id", "image_embedding"])
        if not fetched["image_id"].equals(embedded["image_id"]):
            raise BrokenResult(f"{embed.path}: part {part} does not list the images of {fetch.path}")
        dim = embedded.schema.field("image_embedding").type.list_size
        present = pc.and_(pc.is_valid(fetched["sha256"]), pc.is_valid(embedded["image_embedding"]))
        fetched, vectors = fetched.filter(present), _vectors(embedded["image_embedding"].filter(present), dim)
        # Cosines in float64 are exact for values up to 1 (`curate.dedup.search`); NaN is not up to 1.
        usable = np.logical_and((np.abs(vectors) <= 1).all(axis=1), vectors.any(axis=1))
        return PartImages(fetched.filter(pa.array(usable)), vectors[usable], int(len(usable) - usable.sum()))

    def similarities(self, left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See `NearKind`."""
        return cosines(left, right)

    def reach(self, left: npt.NDArray[Any], right: npt.NDArray[Any], least: float) -> npt.NDArray[np.bool_]:
        """See `NearKind`."""
        return reach(left, right, least)

    def each_similarity(self, left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See `NearKind`."""
        every = np.arange(len(left))
        return cosine(left, right, every, every)

    def open(self, settings: Json) -> Search:
        """See `NearKind`."""
        # Imported here, as a process that only reads a recipe does not need torch.
        import torch

        from curate.device import choose_device, without_tf32

        device = choose_device(settings["device"])
        torch.set_num_threads(settings["threads"])
        # The margin of the search is computed for float32; TF32 would need a margin a thousand times as wide.
        without_tf32()
        return _Search(settings["floor"], settings["tile"], settings["threads"], device)

    def _floor(self, dedup: Any) -> float:
        return float(dedup.floors.get(self.model, dedup.floor))


@dataclass(frozen=True)
class _Search:
    floor: float
    tile: int
    threads: int
    device: "torch.device"

    def near(
        self, left: npt.NDArray[Any], right: npt.NDArray[Any] | None, scratch: Path, account: Account
    ) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]:
        """See `Search`."""
        from curate.dedup.search import near_pairs
        from curate.device import gpu_failures

        with gpu_failures(self.device):
            yield from near_pairs(
                left, right, self.floor, self.tile, self.device, scratch, account, threads=self.threads
            )

    def near_counts(self, values: npt.NDArray[Any], sample: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """See `Search`."""
        from curate.dedup.search import near_counts

        return near_counts(values, sample, self.floor)


def _vectors(column: pa.ChunkedArray, dim: int) -> npt.NDArray[np.float16]:
    values: npt.NDArray[np.float16] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, dim)


KIND = ImageEmbedding()
