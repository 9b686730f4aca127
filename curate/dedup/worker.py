"""Dedup: runs a search over the tables of all parts, and writes `near.parquet`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.duplicates import KINDS, NearKind
from curate.errors import UsageError
from curate.schema import NEAR
from curate.scratch import scratch
from curate.store import Inputs, Outputs

Worker = Callable[[int, Inputs, Mapping[str, Outputs]], None]

_ROW_GROUP = 1 << 17
"""Near pairs in one row group, a fixed number, so that the file does not depend on the size of the tiles."""


def open_worker(settings: Mapping[str, Any]) -> Worker:
    """The worker of a search, whose single unit is the whole corpus.

    Args:
        settings: `kind`, the name of a kind of duplicate, and the settings of that kind's search.

    Raises:
        UsageError: the kind has no search, or this machine does not have the device.
    """
    kind = KINDS.find(settings["kind"])
    if not isinstance(kind, NearKind):
        raise UsageError(f"duplicates by {kind.name} are found without a search")
    search = kind.open({name: value for name, value in settings.items() if name != "kind"})

    def dedup(unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:  # noqa: ARG001
        out = outputs[kind.search_pass]
        with scratch("dedup") as folder:
            near = _write(folder / "near.parquet", search(inputs, folder, out))
            out.put_file("near.parquet", folder / "near.parquet", rows=near)
        out.counts.update(near=near)

    return dedup


def _write(path: Path, tables: Iterable[pa.Table]) -> int:
    rows = 0
    with pq.ParquetWriter(path, NEAR, compression="zstd", write_page_checksum=True) as writer:
        for group in _groups(tables):
            writer.write_table(group, row_group_size=_ROW_GROUP)
            rows += group.num_rows
    return rows


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yields the same rows in tables of `_ROW_GROUP` rows; the last table may be shorter."""
    held = NEAR.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        while held.num_rows >= _ROW_GROUP:
            yield held.slice(0, _ROW_GROUP)
            held = held.slice(_ROW_GROUP)
    if held.num_rows:
        yield held
