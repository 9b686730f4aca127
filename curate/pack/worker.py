"""The pack pass: one shard of the result from the parts that hold its kept pairs.

Kept pairs stand in the order of (part, row of plan); shard s holds those from s · shard_size on. A shard is
a function of committed inputs alone: order, time stamps, owners and compression are fixed.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from curate.errors import BrokenResult
from curate.pack.rows import Settings, described, embedded, read
from curate.pack.tars import Images, Shard
from curate.scratch import scratch
from curate.store import Folder, Inputs, Outputs

Worker = Callable[[int, Inputs, Mapping[str, Outputs]], None]


def open_worker(settings: Mapping[str, Any]) -> Worker:
    """The worker of the pack pass; its unit is a shard number. Settings as for `curate.pack.rows.Settings.of`."""
    chosen = Settings.of(settings)

    def pack(shard: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        out = outputs["pack"]
        name = f"{shard:08d}"
        rows, vectors = [], []
        with scratch("pack") as folder:
            path = folder / f"{name}.tar"
            with Shard(path) as written:
                for part, start, stop in spans(inputs["select"], chosen.shard_size, shard):
                    pairs = read(inputs, chosen.columns, part, start, stop)
                    rows.append(described(pairs, chosen.columns))
                    vectors.append(embedded(pairs, chosen.columns))
                    with _images(inputs["fetch"], part) as images:
                        written.add(rows[-1], pairs["file"].to_pylist(), images)
            if not rows:
                raise BrokenResult(f"shard {name} would be empty: too few pairs are kept")
            table = pa.concat_tables(rows)
            samples = len(table)
            infos = [
                out.put_file("shard.tar", path, name=f"shards/{name}.tar", rows=samples),
                out.put_table("shard.parquet", table, name=f"shards/{name}.parquet"),
                out.put_json("stats.json", _stats(samples), name=f"shards/{name}_stats.json"),
                out.put_table("embeddings.parquet", pa.concat_tables(vectors), name=f"embeddings/{name}.parquet"),
            ]
        out.counts.update(samples=samples, bytes=sum(info.bytes for info in infos))

    return pack


def shard_sizes(select: Folder, shard_size: int) -> list[int]:
    """How many samples each shard has: `shard_size` in all but the last."""
    kept = sum(select.table("parts.parquet", columns=["kept"])["kept"].to_pylist())
    full, rest = divmod(kept, shard_size)
    return [shard_size] * full + [rest] * (rest > 0)


def n_shards(select: Folder, shard_size: int) -> int:
    """How many shards the kept pairs fill.

    Args:
        select: the folder of decisions, done as a whole.
        shard_size: samples in every shard but the last.
    """
    return len(shard_sizes(select, shard_size))


def spans(select: Folder, shard_size: int, shard: int) -> list[tuple[int, int, int]]:
    """Where the pairs of a shard lie: (part, start, stop), counted in the part's kept rows."""
    parts = select.table("parts.parquet", columns=["part", "kept"])
    first, end = shard * shard_size, (shard + 1) * shard_size
    found, before = [], 0
    for part, kept in zip(parts["part"].to_pylist(), parts["kept"].to_pylist(), strict=True):
        start, stop = max(first - before, 0), min(end - before, kept)
        if start < stop:
            found.append((part, start, stop))
        before += kept
    return found


@contextlib.contextmanager
def _images(fetch: Folder, part: int) -> Iterator[Images]:
    name = fetch.file("images.tar", part)
    with fetch.store.as_local(name) as path, Images(path, fetch.store.path(name)) as images:
        yield images


def _stats(samples: int) -> dict[str, Any]:
    """What img2dataset says of a shard, without its times."""
    return {
        "count": samples,
        "successes": samples,
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "status_dict": {"success": samples},
    }
