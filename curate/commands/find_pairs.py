"""Resolves a pair id, an id prefix or a URL to plan rows."""

import re
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from curate import schema
from curate.errors import UsageError
from curate.plan.id_index import parts_of
from curate.side_by_side import side_by_side
from curate.store import Folder

Place = tuple[int, int]
"""A row of the plan: part, row."""

_ID = re.compile(r"([0-9a-f]{8,32})(…|\.\.\.)?", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def rows(plan: Folder, wanted: str) -> list[Place]:
    """Returns every row of the pair or the URL, part by part.

    A URL is looked up in one part, a pair's id in the plan's index (`curate.plan.id_index`) and then in the parts of
    its rows; in a plan without an index all parts are searched.

    Raises:
        UsageError: there is no such pair or URL, several pairs have this prefix, or `wanted` is neither id nor URL.
    """
    n_parts = plan.marker().counts["parts"]
    url = plan.store.url
    if digits := _ID.fullmatch(wanted):
        prefix = digits[1].lower()
        indexed = parts_of(plan, prefix)
        found = list(_beginning(plan, prefix, range(n_parts) if indexed is None else indexed))
        pairs = {pair for _, pair in found}
        if len(pairs) > 1:
            raise UsageError(f"{url}: {len(pairs):,} pairs begin with {prefix}; write more of its 32 digits")
        if not pairs:
            raise UsageError(f"{url} has no pair {prefix}" + ("…" if len(prefix) < 32 else ""))
        return [place for place, _ in found]
    image = schema.image_id(wanted)
    part = schema.part_of(image, int(plan.store.read_json("run.json")["seed"]), n_parts)
    # A list may contain any text as a URL, so the form is checked only where the list does not contain the text.
    places = [(part, row) for row in _where(pc.equal(_ids(plan, "image_id", part), pa.scalar(image)))]
    if not places and _URL.match(wanted):
        raise UsageError(f"{url} has no URL {wanted}")
    if not places:
        form = "a pair's id (32 hex digits, or the first 8 or more of them) nor a URL"
        raise UsageError(f"{wanted!r} is neither {form}")
    return places


def _beginning(plan: Folder, prefix: str, parts: Sequence[int]) -> Iterator[tuple[Place, bytes]]:
    """Yields every row whose pair id has this prefix, with the id."""
    low, high = (pa.scalar(bytes.fromhex(prefix.ljust(32, digit))) for digit in "0f")
    for part, ids in side_by_side(lambda part: (part, _ids(plan, "pair_id", part)), parts):
        # Rows of one pair may be in several parts where the source gives the pair ids.
        for row in _where(pc.and_(pc.greater_equal(ids, low), pc.less_equal(ids, high))):
            yield (part, row), ids[row].as_py()


def _ids(plan: Folder, column: str, part: int) -> pa.ChunkedArray:
    """Returns a column of ids as variable-length binary, which Arrow can compare."""
    return plan.table("pairs.parquet", part, [column])[column].cast(pa.binary())


def _where(mask: pa.ChunkedArray) -> list[int]:
    found: list[int] = pc.indices_nonzero(mask).to_pylist()
    return found
