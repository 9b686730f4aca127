"""Writes a part's images as `images.tar` and `images.parquet`, for downloads and samples alike."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from curate import schema
from curate.errors import BrokenResult, counted
from curate.fetch.contract import Outcome
from curate.fetch.pictures.sorted_tar import Spool
from curate.store import Outputs


def distinct_images(pairs: pa.Table) -> pa.Table:
    """Returns the first row of each image of a part's plan (image_id, …).

    Raises:
        BrokenResult: the rows are not sorted by image_id.
    """
    ids = pairs["image_id"].combine_chunks().cast(pa.binary())
    if len(ids) < 2:
        return pairs
    before, after = ids[:-1], ids[1:]
    if pc.any(pc.greater(before, after)).as_py():
        raise BrokenResult("plan: pairs.parquet is not sorted by image_id")
    first = pa.concat_arrays([pa.array([True]), pc.not_equal(before, after)])
    return pairs.filter(first)


def table_of(ids: pa.ChunkedArray, outcomes: Sequence[Outcome], extension: str) -> pa.Table:
    """Returns the table `schema.IMAGES` of some images.

    Args:
        ids: the ids of the images.
        outcomes: the outcome of each, in the same order.
        extension: file extension of stored pictures.
    """
    rows = [
        {
            **asdict(outcome),
            "image_id": image_id,
            "status": schema.FETCHED if outcome.stored else "failed",
            "file": f"{image_id.hex()}.{extension}" if outcome.stored else None,
        }
        for image_id, outcome in zip(ids.to_pylist(), outcomes, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema.IMAGES)


def write(out: Outputs, table: pa.Table, spool: Spool, scratch: Path, positions: Sequence[int]) -> None:
    """Writes a part's files and counts.

    Args:
        out: the part's outputs.
        table: the part's `schema.IMAGES`.
        spool: holds the pictures.
        scratch: a local folder.
        positions: for each row, the position of its picture in the spool; unused where the row has none.
    """
    files = list(zip(table["file"].to_pylist(), positions, strict=True))
    spool.write_tar(scratch / "images.tar", ((name, position) for name, position in files if name is not None))
    checksums = [None if name is None else spool.checksum(position) for name, position in files]
    number = table.schema.get_field_index(schema.CHECKSUM)
    table = table.set_column(number, schema.IMAGES.field(schema.CHECKSUM), pa.array(checksums, pa.uint32()))
    out.put_file("images.tar", scratch / "images.tar", rows=pc.count(table["file"]).as_py())
    out.put_table("images.parquet", table, incidental=["milliseconds"])
    out.counts.update(_counts(table))
    lost = out.counts.get("error:internal", 0)
    if lost:
        out.notes.append(f"{counted(lost, 'image')} failed as internal: a fault of Curate, not of their servers")
    changed = out.counts.get("changed", 0)
    if changed:
        out.notes.append(f"{counted(changed, 'image')} differ from the list's digests and were kept (fetch.changed)")


def _counts(table: pa.Table) -> dict[str, int]:
    """Returns a part's counts for the report."""
    stored = int(pc.count(table["file"]).as_py())
    # A stored image has a message only where its bytes are not those that the list expects.
    changed = int(pc.count(table["error"].filter(pc.is_valid(table["file"]))).as_py())
    return {
        "images": table.num_rows,
        "success": stored,
        "failed": table.num_rows - stored,
        "bytes": pc.sum(table["bytes"]).as_py() or 0,
        **({"changed": changed} if changed else {}),
        **{
            f"error:{name}": count
            for name, count in sorted(Counter(table["error_class"].drop_null().to_pylist()).items())
        },
    }
