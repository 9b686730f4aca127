"""`by: phash`: images whose perceptual hashes differ in few of 64 bits."""

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
from curate.errors import BrokenResult
from curate.keys import Keys
from curate.store import Folder, Inputs, Json, Outputs

BITS = 64


class PhashKeys(Keys):
    """The key of a step that drops near hashes."""

    within: Annotated[int, Field(ge=0, le=16)] = Field(
        description="With phash: images that differ in this many of 64 bits, or fewer, are duplicates."
    )


class HammingSearch(Keys):
    """The search for near hashes."""

    phash_bits: Annotated[int, Field(ge=0, le=16)] = Field(
        8,
        description="The search stores pairs that differ in this many bits or fewer; `within` of a step may be changed "
        "up to this number without another search.",
    )


class Phash(NearKind):
    """All pairs of `phash` up to a number of differing bits (`curate.dedup.hamming`).

    The similarity of two hashes is their share of equal bits, which float64 represents exactly.
    """

    name = "phash"
    about = "at most `within` of 64 bits differ"
    keys = PhashKeys
    section = HammingSearch
    column = "phash"
    measure = "share of equal bits"

    def words(self, keys: PhashKeys) -> str:
        """See `DuplicateKind`."""
        return f"at most {keys.within} of {BITS} bits of phash differ"

    def threshold(self, keys: PhashKeys) -> float:
        """See `NearKind`."""
        return 1 - keys.within / BITS

    def not_searched(self, keys: PhashKeys, dedup: Any) -> str:
        """See `NearKind`."""
        if keys.within <= dedup.phash_bits:
            return ""
        return f"within {keys.within} is more than dedup.phash_bits {dedup.phash_bits}; raise dedup.phash_bits"

    def reads(self, models: Sequence[str]) -> list[str]:
        """See `NearKind`."""
        del models
        return ["fetch", "pixels"]

    def depends(self, dedup: Any) -> Json:
        """See `NearKind`."""
        return {"bits": dedup.phash_bits}

    def settings(self, recipe: Any) -> Json:
        """See `NearKind`."""
        return {"bits": recipe.dedup.phash_bits}

    def open(self, settings: Json) -> Search:
        """See `NearKind`."""
        within: int = settings["bits"]

        def search(inputs: Inputs, folder: Path, out: Outputs) -> Iterator[pa.Table]:
            fetch, pixels = inputs["fetch"], inputs["pixels"]
            nodes = collect(lambda part: _images(fetch, pixels, part), inputs.parts, folder, pixels.path)
            out.counts.update(images=nodes.images, digests=len(nodes.digests))
            for i, j, bits in near_hashes(nodes.values, within):
                yield nodes.near(i, j, 1 - bits / BITS)

        return search


def _images(fetch: Folder, pixels: Folder, part: int) -> PartImages:
    fetched = fetch.table("images.parquet", part, ["image_id", "sha256"])
    measured = pixels.table("pixels.parquet", part, ["image_id", "phash"])
    if not fetched["image_id"].equals(measured["image_id"]):
        raise BrokenResult(f"{pixels.path}: part {part} does not list the images of {fetch.path}")
    present = pc.and_(pc.is_valid(fetched["sha256"]), pc.is_valid(measured["phash"]))
    fetched, digits = fetched.filter(present), "".join(measured["phash"].filter(present).to_pylist())
    if len(digits) != BITS // 4 * len(fetched):
        raise BrokenResult(f"{pixels.path}: part {part} has a phash that is not 16 hex digits")
    return PartImages(fetched, np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64))


KIND = Phash()
