"""Blocklists of perceptual hashes: pictures that look like a listed one are never stored."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import RecipeError
from curate.fetch.pictures.blocklist import words
from curate.phash import BITS, DIGITS

_HASH = re.compile(rf"[0-9a-f]{{{DIGITS}}}")


class PhashBlocklist:
    """Listed hashes, and the number of bits in which a picture's hash may differ from one of them to be refused.

    Every listed hash is compared: 100,000 of them take 0.1 ms a picture.

    Args:
        hashes: uint64 [n], in any order.
        within: 0 to 64.
    """

    def __init__(self, hashes: npt.NDArray[np.uint64] | None = None, within: int = 0) -> None:
        self._hashes = np.unique(hashes) if hashes is not None else np.empty(0, np.uint64)
        self._within = within

    def __bool__(self) -> bool:
        """Whether any hash is listed."""
        return len(self._hashes) > 0

    def near(self, phash: str) -> str | None:
        """Returns, as one line, the listed hash that a hash is nearest to; None where all differ in more bits."""
        differing = np.bitwise_count(self._hashes ^ np.uint64(int(phash, 16)))
        at = int(differing.argmin())
        if differing[at] > self._within:
            return None
        return f"phash {phash} differs in {differing[at]} bits from {self._hashes[at]:0{DIGITS}x} of a blocklist"

    @property
    def fingerprint(self) -> str:
        """A digest of hashes and bits, independent of the files that hold them; empty where there are none."""
        if not self:
            return ""
        return hashlib.sha256(f"{self._within}:".encode() + self._hashes.astype(">u8").tobytes()).hexdigest()


def read(paths: Sequence[str], within: int, endpoint: str | None = None) -> PhashBlocklist:
    """Reads lists of hashes: one of 64 bits a line, in 16 hex digits; text after a space or a `#` is ignored.

    Args:
        paths: local paths or URLs.
        within: see `PhashBlocklist`.
        endpoint: an S3 server other than AWS.

    Raises:
        RecipeError: a list cannot be read, a line is not a hash, or a file has none.
    """
    hashes: list[int] = []
    for path in paths:
        before = len(hashes)
        for number, word in words("fetch.phash_blocklists", path, endpoint):
            if not _HASH.fullmatch(word):
                raise RecipeError(
                    f"fetch.phash_blocklists: {path}, line {number}: not a hash of {BITS} bits, {DIGITS} hex digits"
                )
            hashes.append(int(word, 16))
        if len(hashes) == before:
            raise RecipeError(f"fetch.phash_blocklists: {path} has no hash; write one a line, or leave the file out")
    return PhashBlocklist(np.array(hashes, np.uint64), within)


def as_laid_out(settings: Mapping[str, Any]) -> PhashBlocklist:
    """Reads the lists of a worker's settings: the recipe's `fetch` section, `endpoint` and `blocked_phash`.

    Raises:
        RecipeError: as `read`, or they are not those that `blocked_phash`, their fingerprint, was computed from.
    """
    listed = read(settings["phash_blocklists"], settings["phash_within"], settings["endpoint"])
    if listed.fingerprint != settings["blocked_phash"]:
        raise RecipeError("fetch.phash_blocklists: they changed during the run; start it again")
    return listed
