"""`by: pdq`: images whose PDQ hashes differ in few of 256 bits."""

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
    stored = Stored("pdq", digits=BITS // 4)
    section = PdqSearch
    block_rows = 1 << 18
    left_out = "the quality of the pdq hash is below dedup.pdq_quality"
    column = "pdq"
    measure = "share of equal bits"

    def words(self, keys: PdqKeys) -> str:
        """See `DuplicateKind`."""
        return f"at most {keys.within} of {BITS} bits of pdq differ"

    def likeness(self, similarity: float) -> str:
        """See `DuplicateKind`: the distance."""
        return bits_that_differ(similarity, BITS)

    def threshold(self, keys: PdqKeys) -> float:
        """See `NearKind`."""
        return 1 - keys.within / BITS

    def not_searched(self, keys: PdqKeys, dedup: Any) -> str:
        """See `NearKind`."""
        if keys.within <= dedup.pdq_bits:
            return ""
        more = f"within {keys.within} is more than dedup.pdq_bits {dedup.pdq_bits}"
        return f"{more}; raise dedup.pdq_bits to {keys.within}"

    def reads(self, models: Sequence[str]) -> list[str]:
        """See `NearKind`."""
        del models
        return ["fetch", _PIXELS]

    def depends(self, dedup: Any) -> Json:
        """See `NearKind`."""
        return {"bits": dedup.pdq_bits}

    def settings(self, recipe: Any) -> Json:
        """See `NearKind`."""
        return {"bits": recipe.dedup.pdq_bits, "quality": recipe.dedup.pdq_quality}

    def gathers(self, dedup: Any) -> Json:
        """See `NearKind`."""
        return {"quality": dedup.pdq_quality}

    def values(self, inputs: Inputs, part: int, settings: Json) -> PartValues:
        """See `NearKind`."""
        least = ("pdq_quality", settings["quality"])
        return read_hashes(inputs["fetch"], inputs[_PIXELS], part, "pdq", BITS, least)

    def similarities(self, left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See `NearKind`."""
        return shares_of_equal_bits(left, right)

    def each_similarity(self, left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See `NearKind`."""
        return each_share_of_equal_bits(left, right)

    def open(self, settings: Json) -> Search:
        """See `NearKind`."""
        return HashSearch(settings["bits"], BITS)


KIND = Pdq()
