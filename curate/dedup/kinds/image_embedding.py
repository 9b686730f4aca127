"""`by: image_embedding`: images whose embeddings by one model have a high cosine."""

from collections.abc import Sequence
from typing import Annotated

import pyarrow.compute as pc
from pydantic import Field

from curate.dedup.embeddings import Above, EmbeddingKind, Floor, usable
from curate.duplicates import PartValues, Stored
from curate.errors import BrokenResult
from curate.keys import Keys, Name
from curate.store import Inputs, Json


class ImageEmbeddingKeys(Keys):
    """The keys of a step that drops near embeddings."""

    above: Above = Field(description="With image_embedding: images with this cosine or more are duplicates.")
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
        4096, description="Images, or captions, in one side of a tile of the search; bounds its memory."
    )


class ImageEmbedding(EmbeddingKind):
    """All pairs of image embeddings by a model."""

    name = "image_embedding"
    about = "a cosine at `above` or more"
    keys = ImageEmbeddingKeys
    stored = Stored("image_embedding")
    section = CosineSearch
    floor = "floor"
    # Every image that could be decoded has an embedding.
    column = "decoded"

    def reads(self, models: Sequence[str]) -> list[str]:
        """See `NearKind`."""
        return ["fetch", f"embed-{self.model or models[0]}"]

    def values(self, inputs: Inputs, part: int, settings: Json) -> PartValues:
        """See `NearKind`."""
        fetch, embed = inputs["fetch"], inputs[f"embed-{settings['model']}"]
        fetched = fetch.table("images.parquet", part, ["image_id", "sha256"])
        embedded = embed.table("images.parquet", part, ["image_id", "image_embedding"])
        if not fetched["image_id"].equals(embedded["image_id"]):
            raise BrokenResult(f"{embed.path}: part {part} does not list the images of {fetch.path}")
        present = pc.and_(pc.is_valid(fetched["sha256"]), pc.is_valid(embedded["image_embedding"]))
        return usable(fetched["sha256"], fetched["image_id"], embedded["image_embedding"], present)


KIND = ImageEmbedding()
