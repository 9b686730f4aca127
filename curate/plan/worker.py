"""Plan: every row of the source, once, in the part that its URL's hash names.

The lists are read twice, once to count them and once to take them, and never held: rows go through buckets on
the local disk (`curate.plan.buckets`), whose order by (image_id, pair_id, source_row) is then a part's.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import schema
from curate.errors import SourceError
from curate.plan import formats
from curate.plan.buckets import Buckets
from curate.plan.rows import rows
from curate.plan.source import Layout, look
from curate.store import Inputs, Outputs

Worker = Callable[[int, Inputs, Mapping[str, Outputs]], None]

_ORDER = [(name, "ascending") for name in ("part", "image_id", "pair_id", "source_row")]


def open_worker(settings: Mapping[str, Any]) -> Worker:
    """The pass `plan`, which runs as a whole.

    Args:
        settings: `source` (the recipe's, dumped), `seed`, `part_size`, `endpoint` (of an S3 server, or None).
    """

    def work(_unit: int, _inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        layout = look(settings["source"], settings["endpoint"])
        plan(layout, settings["seed"], settings["part_size"], outputs["plan"])

    return work


def plan(layout: Layout, seed: int, part_size: int, out: Outputs) -> None:
    """Writes the parts, commits each, and fills the whole's summary and counts.

    Raises:
        SourceError: a list is broken, empty, or changed while it was read.
    """
    total = sum(formats.count(file, layout.header) for file in layout.files)
    if not total:
        raise SourceError(f"the list is empty: no rows in {len(layout.files)} file(s)")
    n_parts = math.ceil(total / part_size)
    notes: Counter[str] = Counter()
    counts: Counter[str] = Counter(parts=n_parts)
    with tempfile.TemporaryDirectory(prefix="curate-plan-") as scratch:
        stored = pa.schema([("part", pa.int64()), *(field for field in layout.plan if field.name != "repeated")])
        buckets = Buckets(Path(scratch), stored, n_parts, part_size)
        taken = 0
        for table in rows(layout, notes):
            images = table["image_id"].to_pylist()
            parts = np.array([schema.part_of(image, seed, n_parts) for image in images], np.int64)
            buckets.add(table.add_column(0, "part", pa.array(parts)).cast(stored), parts)
            taken += table.num_rows
        if taken != total:
            raise SourceError(f"the lists changed while they were read: {total} rows, then {taken}")
        for parts_here, table in buckets.read():
            table = mark_repeated(table.sort_by(_ORDER))
            bounds = np.searchsorted(table["part"].to_numpy(), [*parts_here, parts_here.stop])
            for part, start, end in zip(parts_here, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                pairs = table.slice(start, end - start).select(layout.plan.names).cast(layout.plan)
                unit = out.part(part)
                unit.put_table("pairs.parquet", pairs)
                unit.counts.update(
                    rows=pairs.num_rows,
                    images=len(pc.unique(pairs["image_id"])),
                    repeated=pc.sum(pairs["repeated"], min_count=0).as_py(),
                )
                unit.commit()
                counts.update(unit.counts)
    out.counts.update(counts)
    out.notes.extend(f"{note} ({times:,})" for note, times in sorted(notes.items()))
    out.put_json("summary.json", {name: counts[name] for name in ("parts", "rows", "images", "repeated")})


def mark_repeated(table: pa.Table) -> pa.Table:
    """Adds `repeated`: whether the part has the row's pair_id already, in an earlier row of the source.

    Args:
        table: rows with `part`, `pair_id` and `source_row`, in any order, which is kept.
    """
    by = [(name, "ascending") for name in ("part", "pair_id", "source_row")]
    order = pc.sort_indices(table, sort_keys=by).to_numpy()
    ordered = table.select(["part", "pair_id"]).take(order)
    same = np.zeros(len(order), bool)
    if len(order):
        parts, pairs = ordered["part"].combine_chunks(), ordered["pair_id"].combine_chunks()
        same[1:] = pc.and_(pc.equal(parts[1:], parts[:-1]), pc.equal(pairs[1:], pairs[:-1])).to_numpy(
            zero_copy_only=False
        )
    repeated = np.empty(len(order), bool)
    repeated[order] = same
    return table.append_column(pa.field("repeated", pa.bool_(), nullable=False), pa.array(repeated))
