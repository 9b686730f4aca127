"""Plan: writes every row of the source once, into the part that the hash of its URL selects.

Lists are read twice, to count and to store their rows; samples are read once. Neither is held in memory: rows go
through buckets on the local disk (`curate.plan.buckets`). Each part is sorted by (image_id, pair_id, source_row).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import schema
from curate.errors import SourceError
from curate.plan import samples
from curate.plan.buckets import Buckets
from curate.plan.id_index import IdIndex
from curate.plan.notes import Notes
from curate.plan.rows import cut, located, rows
from curate.plan.samples import Scan
from curate.plan.source import look
from curate.scratch import scratch
from curate.store import Inputs, Outputs

Worker = Callable[[int, Inputs, Mapping[str, Outputs]], None]

_ORDER = [(name, "ascending") for name in ("part", "image_id", "pair_id", "source_row")]


def open_worker(settings: Mapping[str, Any]) -> Worker:
    """The worker of the pass `plan`, whose single unit is the whole source.

    Args:
        settings: `source` (the recipe's, dumped), `seed`, `part_size`, `endpoint` (of an S3 server, or None).
    """

    def work(_unit: int, _inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        source, endpoint, out = settings["source"], settings["endpoint"], outputs["plan"]
        how = (settings["seed"], settings["part_size"], out)
        notes = Notes()
        if source["kind"] == "samples":
            with scratch("plan") as folder:
                scan = Scan(samples.look(source, endpoint), folder, notes)
                plan(scan.layout.plan, scan.rows, scan.tables(), *how)
        else:
            layout = look(source, endpoint)
            pieces = located(cut(layout, number) for number in range(len(layout.files)))
            plan(layout.plan, sum(at.piece.pairs for at in pieces), rows(layout, pieces, notes), *how)
        out.notes.extend(notes.lines())

    return work


def plan(shape: pa.Schema, total: int, tables: Iterable[pa.Table], seed: int, part_size: int, out: Outputs) -> None:
    """Writes and commits each part, then writes the summary and counts of the whole.

    Args:
        shape: the schema of the plan table.
        total: rows of all tables.
        tables: the source's rows in order, with the columns of `shape` but `repeated`.
        seed: of the hash that assigns images to parts.
        part_size: rows of a part, on average.
        out: the outputs of the pass.

    Raises:
        SourceError: there are no rows, or not as many as were counted.
    """
    n_parts = count_parts(total, part_size)
    counts: list[Mapping[str, int]] = []
    with scratch("plan") as folder, scratch("ids") as ids_folder:
        index = IdIndex(ids_folder, total)
        buckets = Buckets(folder, spilled(shape), n_parts, part_size)
        taken = assign(tables, shape, seed, n_parts, buckets, index)
        if taken != total:
            raise SourceError(f"the lists changed while they were read: {total} rows, then {taken}")
        for parts_here, table in buckets.read():
            counts += write_parts(table, parts_here, shape, out.part)
        index.write(out)
    summarise(counts, out)


def count_parts(total: int, part_size: int) -> int:
    """The number of parts for so many rows. Raises SourceError where there are none."""
    if not total:
        raise SourceError("the source is empty: no rows in any of its files")
    return math.ceil(total / part_size)


def spilled(shape: pa.Schema) -> pa.Schema:
    """The schema of rows in buckets: the columns of the plan but `repeated`, after the row's part."""
    return pa.schema([("part", pa.int64()), *(field for field in shape if field.name != "repeated")])


def assign(
    tables: Iterable[pa.Table], shape: pa.Schema, seed: int, n_parts: int, buckets: Buckets, index: IdIndex
) -> int:
    """Adds every row with its part to the buckets, and its id to the index; returns the number of rows."""
    taken = 0
    for table in tables:
        images = table["image_id"].to_pylist()
        parts = np.array([schema.part_of(image, seed, n_parts) for image in images], np.int64)
        buckets.add(table.add_column(0, "part", pa.array(parts)).cast(spilled(shape)), parts)
        index.add(table["pair_id"], parts)
        taken += table.num_rows
    return taken


def write_parts(
    table: pa.Table, parts: range, shape: pa.Schema, outputs: Callable[[int], Outputs]
) -> Iterator[Mapping[str, int]]:
    """Sorts the rows of successive parts, then writes and commits each part; yields its counts."""
    table = mark_repeated(table.sort_by(_ORDER))
    bounds = np.searchsorted(table["part"].to_numpy(), [*parts, parts.stop])
    for part, start, end in zip(parts, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        pairs = table.slice(start, end - start).select(shape.names).cast(shape)
        unit = outputs(part)
        unit.put_table("pairs.parquet", pairs)
        unit.counts.update(
            rows=pairs.num_rows,
            images=len(pc.unique(pairs["image_id"])),
            repeated=pc.sum(pairs["repeated"], min_count=0).as_py(),
        )
        unit.commit()
        yield unit.counts


def summarise(parts: Sequence[Mapping[str, int]], out: Outputs) -> None:
    """Writes the rows of each part, and the counts of the whole, from the counts of all parts in order."""
    rows = pa.array([part["rows"] for part in parts], pa.int64())
    out.put_table("parts.parquet", pa.table({"part": pa.array(range(len(parts)), pa.int32()), "rows": rows}))
    counts = {"parts": len(parts)} | {
        name: sum(part[name] for part in parts) for name in ("rows", "images", "repeated")
    }
    out.counts.update(counts)
    out.put_json("summary.json", counts)


def mark_repeated(table: pa.Table) -> pa.Table:
    """Adds `repeated`: whether an earlier row of the source is the same pair of the same image.

    Rows that share a `uid` and have different URLs are not marked: select chooses between them, as it is not known
    before fetch which of them has an image.

    Args:
        table: rows with `part`, `pair_id`, `image_id` and `source_row`, in any order; their order is kept.
    """
    same_as = ["part", "pair_id", "image_id"]
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in (*same_as, "source_row")]).to_numpy()
    ordered = table.select(same_as).take(order)
    same = np.zeros(len(order), bool)
    if len(order):
        same[1:] = True
        for name in same_as:
            column = ordered[name].combine_chunks()
            same[1:] &= pc.equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    repeated = np.empty(len(order), bool)
    repeated[order] = same
    return table.append_column(pa.field("repeated", pa.bool_(), nullable=False), pa.array(repeated))
