"""Takes over what is intact of a damaged part, so that only its damaged pictures are fetched again.

A page may be gone since the part was fetched: one flipped byte must not cost the other pictures of the part.
"""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from curate import schema
from curate.errors import Damaged
from curate.fetch.pictures.sorted_tar import Spool
from curate.store import FileInfo, Folder, Json
from curate.stored_images import salvage


def intact(fetch: Folder, part: int, before: Mapping[str, Json], spool: Spool, first: int) -> pa.Table:
    """Returns the rows of images whose outcome is known, and puts their pictures into the spool.

    Args:
        fetch: the folder of the fetch pass.
        part: number of the part.
        before: the part's files by role, as the marker named them (`FileInfo` as JSON); empty: none.
        spool: receives the pictures, at the positions from `first` on, in the order of the returned rows.
        first: the first position.

    Returns:
        Rows of `schema.IMAGES`: those of images that failed, and those of pictures that agree with their checksums.
        None where the table itself is damaged, as then no picture can be compared.
    """
    none = schema.IMAGES.empty_table()
    if "images.parquet" not in before or "images.tar" not in before:
        return none
    try:
        table = fetch.table_of(FileInfo(**before["images.parquet"]), part)
    except Damaged:
        return none
    if schema.CHECKSUM not in table.column_names:
        return none
    pictures: dict[int, int] = {}
    for row, picture in salvage(fetch, FileInfo(**before["images.tar"]), table):
        # Its place among the returned rows is known at the end.
        spool.add(-1 - row, picture)
        pictures[row] = -1 - row
    failed = pc.indices_nonzero(pc.is_null(table["file"])).to_pylist()
    rows = sorted([*failed, *pictures])
    for place, row in enumerate(rows):
        if row in pictures:
            spool.move(pictures[row], first + place)
    return table.take(pa.array(rows, pa.int64()))
