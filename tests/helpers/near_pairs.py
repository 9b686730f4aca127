"""Writes near pairs as a finished search does."""

import pyarrow as pa

from curate.store import Folder


def put_near(search: Folder, pairs: pa.Table) -> None:
    """Commits pairs (`schema.NEAR`) as the only tile of a search."""
    out = search.outputs()
    tile = out.part(0)
    tile.put_table("near.parquet", pairs)
    tile.commit()
    out.counts.update(tiles=1, pairs=1_225, near=len(pairs))
    out.commit()
