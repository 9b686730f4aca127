"""`by: phash`: images whose perceptual hashes differ in few of 64 bits."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy.typing as npt
from pydantic import Field

from curate.dedup.hashes import (
    HashSearch,
    bits_that_differ,
    each_share_of_equal_bits,
    read_hashes,
    shares_of_equal_bits,
)
from curate.duplicates import NearKind, PartValues, Search, Stored
from curate.keys import Keys
from curate.store import Inputs, Json

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
    stored = Stored("phash", digits=BITS // 4)
    section = HammingSearch
    block_rows = 1 << 22
    column = "phash"
    measure = "share of equal bits"

    def words(self, keys: PhashKeys) -> str:
        """See `DuplicateKind`."""
        return f"at most {keys.within} of {BITS} bits of phash differ"

    def likeness(self, similarity: float) -> str:
        """See `DuplicateKind`: the distance."""
        return bits_that_differ(similarity, BITS)

    def threshold(self, keys: PhashKeys) -> float:
        """See `NearKind`."""
        return 1 - keys.within / BITS

    def not_searched(self, keys: PhashKeys, dedup: Any) -> str:
        """See `NearKind`."""
        if keys.within <= dedup.phash_bits:
            return ""
        more = f"within {keys.within} is more than dedup.phash_bits {dedup.phash_bits}"
        return f"{more}; raise dedup.phash_bits to {keys.within}"

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

    def values(self, inputs: Inputs, part: int, settings: Json) -> PartValues:
        """See `NearKind`."""
        del settings
        return read_hashes(inputs["fetch"], inputs["pixels"], part, "phash", BITS)

    def similarities(self, left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See `NearKind`."""
        return shares_of_equal_bits(left, right)

    def each_similarity(self, left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See `NearKind`."""
        return each_share_of_equal_bits(left, right)

    def open(self, settings: Json) -> Search:
        """See `NearKind`."""
        return HashSearch(settings["bits"], BITS)


KIND = Phash()
