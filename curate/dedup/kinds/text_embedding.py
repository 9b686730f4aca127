"""`by: text_embedding`: pairs whose captions' embeddings by one model have a high cosine."""

from collections.abc import Sequence

import pyarrow.compute as pc
from pydantic import Field

from curate.dedup.embeddings import Above, EmbeddingKind, Floor, usable
from curate.duplicates import CAPTION, PartValues
from curate.errors import BrokenResult
from curate.keys import Keys, Name
from curate.store import Inputs, Json


class TextEmbeddingKeys(Keys):
    """The keys of a step that drops near embeddings of captions."""

    above: Above = Field(
        description="With text_embedding: pairs whose captions have this cosine or more are duplicates."
    )
    model: Name | None = Field(
        None,
        description="With text_embedding: short name of the model whose embeddings are compared; null: the first.",
    )


class TextSearch(Keys):
    """The search for near embeddings of captions."""

    text_floor: Floor = Field(0.95, description="As `floor`, for the search by text_embedding.")
    text_floors: dict[Name, Floor] = Field(
        {},
        description="As `floors`, for searches by text_embedding; by default `text_floor`.",
        max_length=16,
    )


class TextEmbedding(EmbeddingKind):
    """All pairs of text embeddings by a model, one of each distinct caption, in exact spelling.

    Captions of pairs whose image could not be embedded are left out: such pairs are dropped before all steps.
    """

    name = "text_embedding"
    about = "captions with a cosine at `above` or more"
    compares = CAPTION
    keys = TextEmbeddingKeys
    section = TextSearch
    floor = "text_floor"
    reads_texts = True
    # Pairs without a caption are dropped before all steps.
    column = "caption"

    def words(self, keys: TextEmbeddingKeys) -> str:
        """See `DuplicateKind`."""
        return f"captions: {super().words(keys)}"

    def reads(self, models: Sequence[str]) -> list[str]:
        """See `NearKind`."""
        return ["plan", f"embed-{self.model or models[0]}"]

    def values(self, inputs: Inputs, part: int, settings: Json) -> PartValues:
        """See `NearKind`."""
        plan, embed = inputs["plan"], inputs[f"embed-{settings['model']}"]
        planned = plan.table("pairs.parquet", part, ["pair_id", "caption", "repeated"])
        planned = planned.filter(pc.invert(planned["repeated"]))
        embedded = embed.table("pairs.parquet", part, ["pair_id", "text_embedding", "clip_similarity"])
        if not planned["pair_id"].equals(embedded["pair_id"]):
            raise BrokenResult(f"{embed.path}: part {part} does not list the pairs of {plan.path}")
        # The similarity is null where the image or the caption has no embedding.
        present = pc.and_(pc.is_valid(embedded["text_embedding"]), pc.is_valid(embedded["clip_similarity"]))
        digests = CAPTION.digests_of(planned["caption"])
        return usable(digests, planned["pair_id"], embedded["text_embedding"], present)


KIND = TextEmbedding()
