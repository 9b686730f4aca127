"""Measures the search for near embeddings beside the float32 product of whole vectors, and compares their pairs.

    python benchmarks/dedup.py [--vectors 50000,200000] [--dim 512] [--floor 0.9] [--run RUN] [--whole 100000,1000000]

The sets: vectors around a mean whose directions differ in length by a power law, as CLIP's do, a tenth of them near
another one; and the image embeddings of a run, where one is given. On each set the search runs by short vectors
(`curate.dedup.sieve`) and by whole ones, in turn and in one process with one thread; both end with the same cosines in
float64. Figures are CPU-seconds of the process, as these machines are shared.

With `--whole`, synthetic sets of so many vectors are then searched as in a run: tables of parts in a store on the local
disk, the works of `curate.dedup.passes.by_blocks`, a local engine with one worker of one thread for each core.

The results are in benchmarks/README.md. The last line is JSON: `recall` (the share of the whole product's pairs that
short vectors found; 1.0, or the command fails), `speedup_over_exact` (CPU-seconds of whole vectors ÷ those of short
ones, on the largest synthetic set), `sets`, and with `--whole`: `seconds_1m` and `memory_mb_1m` (by the clock, and the
largest process with what it maps from files; 1m where 1,000,000 vectors were asked for, else their number), `growth`
(seconds of the last set ÷ those of the first).
"""

import argparse
import hashlib
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from curate import schema
from curate.account import Account
from curate.columns import PairColumns
from curate.dedup.passes import by_blocks
from curate.dedup.search import near_pairs
from curate.dedup.sieve import fit
from curate.duplicates import KINDS, NearKind
from curate.engine.local import LocalEngine
from curate.runs.booking import Booking, cores
from curate.runs.driver import drive
from curate.runs.passes import Declaration, Pass
from curate.store import Folder, Inputs, Store

CPU = torch.device("cpu")
TILE = 4096


def spread(count: int, dim: int) -> npt.NDArray[np.float16]:
    """Returns unit vectors around a mean: directions of lengths k^-0.6, cosines of 0.49 on average."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
    lengths = np.arange(1, dim + 1, dtype=np.float32) ** -0.6
    lengths /= np.linalg.norm(lengths)
    vectors = np.empty((count, dim), np.float16)
    for start in range(0, count, 1 << 14):
        rows = rng.standard_normal((min(1 << 14, count - start), dim), np.float32) * lengths @ basis.T
        rows = np.sqrt(0.51) * rows / np.linalg.norm(rows, axis=1, keepdims=True) + 0.7 * basis[0]
        vectors[start : start + len(rows)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    copies = rng.choice(count, (2, count // 20), replace=False)
    noise = (
        rng.standard_normal((copies.shape[1], dim), np.float32) * rng.uniform(0, 0.5, (copies.shape[1], 1)) / dim**0.5
    )
    vectors[copies[0]] = vectors[copies[1]] + noise
    return vectors


def embeddings(run: str) -> npt.NDArray[np.float16]:
    """Returns the distinct image embeddings of a run's first model, in the order of their image ids."""
    store = Store(run)
    manifest = store.read_json("manifest.json")
    (first, *_) = PairColumns.from_json(
        Folder.at(store, manifest["folders"]["select"]).json("columns.json")
    ).embeddings()
    embed = next(name for name in manifest["folders"] if name.startswith("embed-"))
    folder, found = Folder.at(store, manifest["folders"][embed]), []
    for part in range(manifest["n_parts"]):
        column = folder.table("images.parquet", part, [first])[first].drop_null().combine_chunks()
        found.append(np.asarray(column.flatten()).reshape(len(column), -1))
    vectors = np.unique(np.concatenate(found), axis=0)
    return np.random.default_rng(0).permutation(vectors[np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)])


def measured(vectors: npt.NDArray[np.float16], floor: float, **more: Any) -> tuple[set[tuple[int, int]], float]:
    """Returns the pairs, and the CPU-seconds that finding them took."""
    with tempfile.TemporaryDirectory() as scratch:
        begun = time.process_time()
        what = (vectors, None, floor, TILE, CPU)
        found = [columns[:2] for columns in near_pairs(*what, Path(scratch), Account(), **more)]
        seconds = time.process_time() - begun
    return {pair for i, j in found for pair in zip(i.tolist(), j.tolist(), strict=True)}, seconds


PART = 10_000


def searched(vectors: npt.NDArray[np.float16], floor: float) -> dict[str, float]:
    """Searches a set by blocks; returns seconds by the clock, CPU-seconds, and the largest process in MB."""
    with tempfile.TemporaryDirectory() as root:
        return searched_in(Store(root), vectors, floor)[0]


def searched_in(
    store: Store, vectors: npt.NDArray[np.float16], floor: float
) -> tuple[dict[str, float], dict[str, Folder]]:
    """Searches a set by blocks in an empty store; returns the figures of `searched`, and the folders of both passes."""
    inputs = _tables(store, vectors)
    kind = KINDS.find("image_embedding")
    assert isinstance(kind, NearKind)
    blocks = max(2, -(-len(vectors) // kind.block_rows))
    nodes = Pass.of(store, Declaration(kind.nodes_pass, "dedup", 1, {"blocks": blocks}))
    search = Pass.of(store, Declaration(kind.search_pass, "dedup", 1, {"floor": floor}, [kind.nodes_pass]))
    settings = {"kind": kind.name, "floor": floor, "tile": TILE, "model": "m", "device": "cpu", "threads": 1}
    reads = Inputs({**inputs.folders, kind.nodes_pass: nodes.folder}, inputs.parts)
    engine, begun, usage = LocalEngine(), time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    for work in by_blocks(kind, nodes, search, reads, settings, blocks, PART, cores(), Booking(gpus=0.0)):
        at = time.monotonic()
        drive([work], engine, Silent())
        print(f"  {work.name}: {len(work.units)} units, {time.monotonic() - at:.1f} s", flush=True)
    engine.close()
    seconds, used = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    said = search.folder.json("certificate.json")
    shares = {bound: f"{pairs / said['pairs']:.6f}" for bound, pairs in said["excluded"].items()}
    print(f"  {said['near']:,} near of {said['pairs']:,} pairs; {said['compared']:,} compared; excluded: {shares}")
    cpu = used.ru_utime + used.ru_stime - usage.ru_utime - usage.ru_stime
    figures = {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "memory_mb": used.ru_maxrss >> 10}
    return figures, {kind.search_pass: search.folder, kind.nodes_pass: nodes.folder}


def _tables(store: Store, vectors: npt.NDArray[np.float16]) -> Inputs:
    """Commits the tables of fetch and embed that a search reads."""
    inputs = Inputs({name: Folder(store, name, "f") for name in ("fetch", "embed-m")}, range(-(-len(vectors) // PART)))
    for part in inputs.parts:
        some = vectors[part * PART : (part + 1) * PART]
        ids = pa.array([(part * PART + row).to_bytes(16, "big") for row in range(len(some))], schema.ID)
        digests = [hashlib.sha256(vector).hexdigest() for vector in some]
        flat = pa.FixedSizeListArray.from_arrays(pa.array(some.ravel()), vectors.shape[1])
        for name, column, values in (("fetch", "sha256", pa.array(digests)), ("embed-m", "image_embedding", flat)):
            out = inputs[name].outputs(part)
            out.put_table("images.parquet", pa.table({"image_id": ids, column: values}))
            out.commit()
    return inputs


class Silent:
    """A watcher that shows nothing."""

    def begin(self, *_: object) -> None:
        """Shows nothing."""

    advance = end = tell = begin


def main() -> int:
    """Runs every set both ways and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--vectors", type=lambda text: [int(word) for word in text.split(",") if word], default=[50_000, 200_000]
    )
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--floor", type=float, default=0.9)
    parser.add_argument("--run", help="a finished run, whose image embeddings are another set")
    parser.add_argument(
        "--whole", type=lambda text: [int(word) for word in text.split(",")], default=[], help="sets of so many vectors"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sets = {f"synthetic {count:,} × {arguments.dim}": spread(count, arguments.dim) for count in arguments.vectors}
    largest = list(sets)[-1] if sets else ""
    if arguments.run:
        vectors = embeddings(arguments.run)
        sets[f"run {len(vectors):,} × {vectors.shape[1]}"] = vectors
    print(f"{'':<28}{'pairs':>12}{'short, s':>12}{'whole, s':>12}{'ratio':>8}  heads")
    said, recall = {}, 1.0
    for name, vectors in sets.items():
        short, seconds = measured(vectors, arguments.floor)
        whole, plain = measured(vectors, arguments.floor, choose=lambda *_: None)
        recall = min(recall, len(short & whole) / max(1, len(whole)))
        if short != whole:
            print(f"{name}: {len(whole - short)} pairs are missing, {len(short - whole)} should not be there")
        basis = fit(vectors, arguments.floor)
        said[name] = {"pairs": len(whole), "short": round(seconds, 1), "whole": round(plain, 1)}
        heads = basis.heads if basis else "whole"
        print(f"{name:<28}{len(whole):>12,}{seconds:>12.1f}{plain:>12.1f}{plain / seconds:>8.2f}  {heads}", flush=True)
    figures: dict[str, Any] = {"recall": recall, "sets": said}
    if largest:
        figures["speedup_over_exact"] = round(said[largest]["whole"] / said[largest]["short"], 2)
    measured_whole = {}
    for count in arguments.whole:
        print(f"{count:,} × {arguments.dim} by blocks, {cores()} workers")
        measured_whole[count] = searched(spread(count, arguments.dim), arguments.floor)
        name = "1m" if count == 1_000_000 else str(count)
        figures |= {f"{key}_{name}": value for key, value in measured_whole[count].items()}
    if len(measured_whole) > 1:
        first, *_, last = measured_whole.values()
        figures["growth"] = round(last["seconds"] / first["seconds"], 1)
    print(json.dumps(figures))
    return int(recall < 1)


if __name__ == "__main__":
    sys.exit(main())
