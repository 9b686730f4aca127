"""The dedup pass: from digests and embeddings of all parts to `near.parquet`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate.dedup.nodes import DIGEST_BYTES, Nodes, collect
from curate.errors import counted
from curate.schema import NEAR
from curate.scratch import scratch
from curate.store import Inputs, Outputs

Worker = Callable[[int, Inputs, Mapping[str, Outputs]], None]

_ROW_GROUP = 1 << 17
"""Near pairs in one row group, so that the file does not show how large the tiles were."""


@dataclass(frozen=True)
class Settings:
    """What the pass is told.

    Args:
        floor: near pairs are kept from this cosine upwards.
        tile: images in one side of a tile.
        model: the short name of the model whose image embeddings are compared.
        device: `auto`, `cpu` or `cuda`.
        threads: CPU threads of the products.
    """

    floor: float
    tile: int
    model: str
    device: str
    threads: int


def open_worker(settings: Mapping[str, Any]) -> Worker:
    """The worker of the dedup pass; its unit is the whole corpus.

    Raises:
        UsageError: `device` is cuda and there is none.
    """
    # Not at import: a process that only names this worker has no use for torch.
    import torch

    from curate.dedup.search import near_pairs
    from curate.device import choose_device, gpu_failures, without_tf32

    chosen = Settings(**settings)
    device = choose_device(chosen.device)
    torch.set_num_threads(chosen.threads)
    # The margin of the search is that of true float32; TF32 would need one a thousand times as wide.
    without_tf32()

    def dedup(unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:  # noqa: ARG001
        out = outputs["dedup"]
        with scratch("dedup") as folder, gpu_failures(device):
            nodes = collect(inputs["fetch"], inputs[f"embed-{chosen.model}"], inputs.parts, folder)
            found = near_pairs(nodes.vectors, chosen.floor, chosen.tile, device)
            tables = (_table(nodes, i, j, similarity) for i, j, similarity in found)
            near = _write(folder / "near.parquet", tables)
            out.put_file("near.parquet", folder / "near.parquet", rows=near)
        out.counts.update(images=nodes.images, digests=len(nodes.digests), near=near)
        if nodes.unusable:
            left_out = counted(nodes.unusable, "image was", "images were")
            out.notes.append(f"{left_out} not compared: the embedding is zero or not finite")

    return dedup


def _table(
    nodes: Nodes, i: npt.NDArray[np.int64], j: npt.NDArray[np.int64], similarity: npt.NDArray[np.float64]
) -> pa.Table:
    # Nodes ascend by digest, so i < j is sha256_a < sha256_b.
    return pa.table([_hex(nodes.digests[i]), _hex(nodes.digests[j]), pa.array(similarity)], schema=NEAR)


def _hex(digests: npt.NDArray[np.uint8]) -> pa.Array:
    """Digests uint8 [n, 32] as strings of 64 hex digits."""
    digits = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
    text = digits[np.stack((digests >> 4, digests & 15), axis=-1)].reshape(len(digests), 2 * DIGEST_BYTES)
    fixed = [None, pa.py_buffer(text.tobytes())]
    of = pa.binary(2 * DIGEST_BYTES)
    return pa.FixedSizeBinaryArray.from_buffers(of, len(text), fixed).cast(pa.binary()).cast(pa.string())


def _write(path: Path, tables: Iterable[pa.Table]) -> int:
    rows = 0
    with pq.ParquetWriter(path, NEAR, compression="zstd") as writer:
        for group in _groups(tables):
            writer.write_table(group, row_group_size=_ROW_GROUP)
            rows += group.num_rows
    return rows


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of `_ROW_GROUP` rows, the last one shorter."""
    held = NEAR.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        while held.num_rows >= _ROW_GROUP:
            yield held.slice(0, _ROW_GROUP)
            held = held.slice(_ROW_GROUP)
    if held.num_rows:
        yield held
