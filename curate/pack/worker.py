"""The pack pass: writes one shard of the result from the parts that hold its kept pairs.

Kept pairs are ordered by (part, row of plan); shard s holds shard_size pairs from number s · shard_size on. A shard is
a function of committed inputs alone: order, time stamps, owners and compression are fixed.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from curate.errors import BrokenResult
from curate.pack.layouts.contract import LayoutFiles, ShardWriter, StoredImage
from curate.pack.layouts.registry import layouts
from curate.pack.rows import Settings, described, embedded, read
from curate.scratch import scratch
from curate.store import Folder, Inputs, Outputs
from curate.stored_images import images_of

Worker = Callable[[int, Inputs, Mapping[str, Outputs]], None]

_BATCH_BYTES = 16 << 20
"""Image bytes that are collected before they are passed to the layouts; one image may exceed this."""


def open_worker(settings: Mapping[str, Any]) -> Worker:
    """The worker of the pack pass; its unit is a shard number. Settings as for `curate.pack.rows.Settings.of`."""
    chosen = Settings.of(settings)
    written = layouts(chosen.layouts)

    def pack(shard: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        out = outputs["pack"]
        rows, vectors = [], []
        with scratch("pack") as folder, contextlib.ExitStack() as opened:
            writers = {}
            for layout in written:
                own = folder / layout.name
                own.mkdir()
                writers[layout] = opened.enter_context(contextlib.closing(layout.open_shard(shard, own)))
            take_images = [writer for layout, writer in writers.items() if layout.takes_images]
            for part, start, stop in spans(inputs["select"], chosen.shard_size, shard):
                pairs = read(inputs, chosen.columns, part, start, stop)
                rows.append(described(pairs, chosen.columns))
                vectors.append(embedded(pairs, chosen.columns))
                _add_images(inputs["fetch"], part, rows[-1], pairs["file"].to_pylist(), take_images)
            if not rows:
                raise BrokenResult(f"shard {shard:08d} would be empty: too few pairs are kept")
            table, embeddings = pa.concat_tables(rows), pa.concat_tables(vectors)
            for layout, writer in writers.items():
                writer.finish(table, embeddings, LayoutFiles(out, layout.name))
        out.counts.update(samples=len(table), bytes=sum(info.bytes for info in out.files.values()))

    return pack


def shard_sizes(select: Folder, shard_size: int) -> list[int]:
    """The number of samples of each shard: `shard_size` in all but the last."""
    kept = sum(select.table("parts.parquet", columns=["kept"])["kept"].to_pylist())
    full, rest = divmod(kept, shard_size)
    return [shard_size] * full + [rest] * (rest > 0)


def n_shards(select: Folder, shard_size: int) -> int:
    """The number of shards that the kept pairs fill.

    Args:
        select: the folder of decisions, done as a whole.
        shard_size: samples in every shard but the last.
    """
    return len(shard_sizes(select, shard_size))


def spans(select: Folder, shard_size: int, shard: int) -> list[tuple[int, int, int]]:
    """The places of a shard's pairs: (part, start, stop), counted in the part's kept rows."""
    parts = select.table("parts.parquet", columns=["part", "kept"])
    first, end = shard * shard_size, (shard + 1) * shard_size
    places, before = [], 0
    for part, kept in zip(parts["part"].to_pylist(), parts["kept"].to_pylist(), strict=True):
        start, stop = max(first - before, 0), min(end - before, kept)
        if start < stop:
            places.append((part, start, stop))
        before += kept
    return places


def _add_images(
    fetch: Folder, part: int, rows: pa.Table, members: Sequence[str], writers: Sequence[ShardWriter]
) -> None:
    """Reads the images of rows of a part, each once, and hands them to the writers batch by batch."""
    if not writers:
        return
    with images_of(fetch, part) as images:
        batch: list[StoredImage] = []
        held = 0
        for row, member in enumerate(members):
            batch.append(StoredImage(member.rpartition(".")[2], images.read(member)))
            held += len(batch[-1].data)
            if held >= _BATCH_BYTES or row == len(members) - 1:
                for writer in writers:
                    writer.add(rows.slice(row + 1 - len(batch), len(batch)), batch)
                batch, held = [], 0
