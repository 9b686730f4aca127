"""`by: pdq`: images whose PDQ hashes differ in few of 256 bits."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curate.dedup.hamming import near_hashes
from curate.dedup.nodes import PartImages, collect
from curate.duplicates import NearKind, Search
from curate.errors import BrokenResult, counted
from curate.keys import Keys
from curate.store import Folder, Inputs, Json, Outputs

BITS = 256

_PIXELS = "pixels-pdq"
"""The pass that computes the hashes (`curate.embed.pixels.kinds.pdq`)."""


class PdqKeys(Keys):
    """The key of a step that drops near hashes."""

    within: Annotated[int, Field(ge=0, le=64)] = Field(
        description="With pdq: images that differ in this many of 256 bits, or fewer, are duplicates; ThreatExchange "
        "recommends 31."
    )


class PdqSearch(Keys):
    """The search for near hashes."""

    pdq_bits: Annotated[int, Field(ge=0, le=64)] = Field(
        31,
        description="The search by pdq stores pairs that differ in this many bits or fewer; `within` of a step may be "
        "changed up to this number without another search.",
    )
    pdq_quality: Annotated[int, Field(ge=0, le=100)] = Field(
        50, description="Images whose pdq hash has a lower quality, such as blank ones, are not compared by pdq."
    )


class Pdq(NearKind):
    """All pairs of `pdq` up to a number of differing bits (`curate.dedup.hamming`), without hashes of low quality.

    The similarity of two hashes is their share of equal bits, which float64 represents exactly.
    """

    name = "pdq"
    about = "at most `within` of 256 bits of the PDQ hash differ"
    keys = PdqKeys
    section = PdqSearch
    column = "pdq"
    measure = "share of equal bits"

    def words(self, keys: PdqKeys) -> str:
        """See `DuplicateKind`."""
        return f"at most {keys.within} of {BITS} bits of pdq differ"

    def threshold(self, keys: PdqKeys) -> float:
        """See `NearKind`."""
        return 1 - keys.within / BITS

    def not_searched(self, keys: PdqKeys, dedup: Any) -> str:
        """See `NearKind`."""
        if keys.within <= dedup.pdq_bits:
            return ""
        return f"within {keys.within} is more than dedup.pdq_bits {dedup.pdq_bits}; raise dedup.pdq_bits"

    def reads(self, models: Sequence[str]) -> list[str]:
        """See `NearKind`."""
        del models
        return ["fetch", _PIXELS]

    def depends(self, dedup: Any) -> Json:
        """See `NearKind`."""
        return {"bits": dedup.pdq_bits, "quality": dedup.pdq_quality}

    def settings(self, recipe: Any) -> Json:
        """See `NearKind`."""
        return self.depends(recipe.dedup)

    def open(self, settings: Json) -> Search:
        """See `NearKind`."""
        within: int = settings["bits"]
        least: int = settings["quality"]

        def search(inputs: Inputs, folder: Path, out: Outputs) -> Iterator[pa.Table]:
            fetch, pixels = inputs["fetch"], inputs[_PIXELS]
            nodes = collect(lambda part: _images(fetch, pixels, part, least), inputs.parts, folder, pixels.path)
            out.counts.update(images=nodes.images, digests=len(nodes.digests))
            if nodes.unusable:
                left_out = counted(nodes.unusable, "image was", "images were")
                out.notes.append(f"{left_out} not compared: the quality of the pdq hash is below {least}")
            for i, j, bits in near_hashes(nodes.values, within):
                yield nodes.near(i, j, 1 - bits / BITS)

        return search


def _images(fetch: Folder, pixels: Folder, part: int, least: int) -> PartImages:
    fetched = fetch.table("images.parquet", part, ["image_id", "sha256"])
    measured = pixels.table("pixels.parquet", part, ["image_id", "pdq", "pdq_quality"])
    if not fetched["image_id"].equals(measured["image_id"]):
        raise BrokenResult(f"{pixels.path}: part {part} does not list the images of {fetch.path}")
    present = pc.and_(pc.is_valid(fetched["sha256"]), pc.is_valid(measured["pdq"]))
    usable = pc.and_(present, pc.greater_equal(measured["pdq_quality"], least))
    fetched, digits = fetched.filter(usable), "".join(measured["pdq"].filter(usable).to_pylist())
    if len(digits) != BITS // 4 * len(fetched):
        raise BrokenResult(f"{pixels.path}: part {part} has a pdq that is not 64 hex digits")
    values = np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64).reshape(len(fetched), -1)
    return PartImages(fetched, values, pc.sum(present).as_py() - len(fetched))


KIND = Pdq()
