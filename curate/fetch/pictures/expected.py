"""Expected digests: what the list says of an image's bytes, and whether the received bytes agree."""

import hashlib
from dataclasses import dataclass

import pyarrow as pa

from curate import schema
from curate.fetch.contract import FetchError

Digests = tuple[str | None, str | None]
"""The sha256 and the md5 that one row of the list expects, in hex digits; None where it expects none."""


@dataclass(frozen=True)
class Expected:
    """The digests that the rows of one image expect; bytes that agree with one of the rows are as expected."""

    of_rows: frozenset[Digests] = frozenset()

    def check(self, body: bytes, sha256: str) -> None:
        """Returns where the bytes are as expected, or nothing is.

        Args:
            body: the received bytes.
            sha256: their digest in hex digits.

        Raises:
            FetchError: class changed.
        """
        if not self.of_rows:
            return
        needs_md5 = any(md5 for _, md5 in self.of_rows)
        own = (sha256, hashlib.md5(body, usedforsecurity=False).hexdigest() if needs_md5 else None)
        fault = ""
        for row in sorted(self.of_rows, key=str):
            differing = [
                f"its {kind} is not the list's {wanted}"
                for kind, wanted, has in zip(("sha256", "md5"), row, own, strict=True)
                if wanted is not None and wanted != has
            ]
            if not differing:
                return
            fault = fault or differing[0]
        raise FetchError("changed", fault)


def of_images(pairs: pa.Table) -> list[Expected]:
    """Returns what is expected of each distinct image of a part's plan, in the order of `part.distinct_images`.

    Args:
        pairs: image_id, sorted, and those columns of `schema.EXPECTED` that the plan has.
    """
    columns = [
        pairs[name].to_pylist() if name in pairs.column_names else [None] * len(pairs) for name in schema.EXPECTED
    ]
    found: list[set[Digests]] = []
    before: bytes | None = None
    for image, sha256, md5 in zip(pairs["image_id"].to_pylist(), *columns, strict=True):
        if image != before:
            found.append(set())
            before = image
        if sha256 or md5:
            found[-1].add((sha256, md5))
    return [Expected(frozenset(rows)) for rows in found]
