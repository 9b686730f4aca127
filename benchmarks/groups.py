"""Measures dense groups beside unrelated images, and the decision over many stored near pairs.

    python benchmarks/groups.py [--images 100000] [--dim 512] [--pairs 50000000] [--nodes 10000000]

Three sets of `--images` vectors, each in a process of its own: unrelated ones (`dedup.spread`); placeholders, all of
them near each other, as copies of one picture in other bytes; and a wide group, whose cosines lie around the floor and
the threshold, so that many of its pairs are near, and most stay. Each is searched as in a run (`dedup.searched_in`) and
decided by one step at a cosine of 0.95 (`curate.select.greedy`).

With `--pairs`, near pairs of groups of a few images are written as a search does, among `--nodes` images, and decided
with all their rows.

The last line is JSON: `dense_ratio` (placeholders ÷ unrelated, of CPU-seconds, memory, and stored pairs and dense nodes
for each image), `sets`, and `decision` (seconds by the clock, CPU-seconds, memory in MB, of the decision alone).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from dedup import searched_in, spread

from curate import schema
from curate.dedup.nodes import Records, by_block, put_block
from curate.near import CERTIFICATE, NEAR, NEAR_GROUP, FoundPairs, tiles
from curate.select import greedy
from curate.select.database import connect
from curate.select.near_nodes import Reach
from curate.select.survivors import Survivors
from curate.store import Folder, Store

FLOOR, ABOVE = 0.9, 0.95
COSINES = {"placeholders": 0.99, "wide": 0.93}
"""Of any two images of a group, about."""

SEARCH, NODES = "dedup-image_embedding", "nodes-image_embedding"
BLOCK_ROWS = 1 << 18


def group(count: int, dim: int, cosine: float) -> npt.NDArray[np.float16]:
    """Returns vectors with this cosine between any two of them, about."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal(dim, np.float32)
    base /= np.linalg.norm(base)
    vectors = np.empty((count, dim), np.float16)
    for start in range(0, count, 1 << 14):
        noise = rng.standard_normal((min(1 << 14, count - start), dim), np.float32) / dim**0.5
        rows = cosine**0.5 * base + (1 - cosine) ** 0.5 * noise
        vectors[start : start + len(rows)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return vectors


def decided(found: FoundPairs, scratch: Path) -> dict[str, float]:
    """Decides one pair for each node, with random preferences; returns figures of the decision alone."""
    with connect(scratch) as con:
        count = found.count
        rng = np.random.default_rng(1)
        values = rng.random(count)
        ids = rng.integers(0, 2**63, (2, count), np.uint64)
        con.execute(
            "CREATE TABLE pairs (id BIGINT, high UBIGINT, low UBIGINT, before VARCHAR, value DOUBLE, sha256 VARCHAR)"
        )
        start = 0
        for some in found.names():
            rows = slice(start, start + len(some))
            table = {"id": np.arange(rows.start, rows.stop), "high": ids[0, rows], "low": ids[1, rows]}
            con.register("arrived", pa.table({**table, "value": values[rows], "sha256": some}))
            con.execute("INSERT INTO pairs SELECT id, high, low, NULL, value, sha256 FROM arrived")
            start += len(some)
        rows_left = Survivors(con, {}, lambda _: found)
        begun, used = time.monotonic(), time.process_time()
        greedy.drop(rows_left, [Reach(0, {SEARCH: ABOVE})], "value", "sha256")
        seconds, cpu = time.monotonic() - begun, time.process_time() - used
        return {"seconds": seconds, "cpu_seconds": cpu, "dropped": rows_left.number("SELECT count(*) FROM dropped")}


def one_set(name: str, count: int, dim: int) -> dict[str, Any]:
    """Searches and decides one of the sets; returns CPU-seconds, the largest process in MB, and what is stored."""
    vectors = group(count, dim, COSINES[name]) if name in COSINES else spread(count, dim)
    with tempfile.TemporaryDirectory() as root:
        searched, folders = searched_in(Store(f"{root}/run"), vectors, FLOOR)
        del vectors
        found = FoundPairs(folders[SEARCH], folders[NODES])
        decision = decided(found, Path(root))
        said = folders[SEARCH].json(CERTIFICATE)
    return {
        "search_cpu_seconds": searched["cpu_seconds"],
        "search_memory_mb": searched["memory_mb"],
        "decision_cpu_seconds": round(decision["cpu_seconds"], 1),
        "stored": said["near"] + said["dense"],
        "near": said["near"],
        "dense": said["dense"],
        "dropped": decision["dropped"],
    }


def stored_pairs(store: Store, nodes: int, pairs: int) -> FoundPairs:
    """Writes near pairs of groups of images as a finished search does."""
    rng = np.random.default_rng(0)
    blocks = max(1, -(-nodes // BLOCK_ROWS))
    digests = np.sort(rng.integers(0, 2**64, nodes, np.uint64))
    records: Records = np.zeros(nodes, [("digest", ">u8", (4,)), ("image", ">u8", (2,)), ("value", np.float16, (1,))])
    records["digest"][:, 0] = digests
    folders = {name: Folder(store, name, "f") for name in (SEARCH, NODES)}
    facts, divided = [], by_block(records, blocks)
    with tempfile.TemporaryDirectory() as scratch:
        for number, block in enumerate(divided):
            out = folders[NODES].outputs(number)
            put_block(block, out, Path(scratch) / "nodes")
            out.commit()
            facts.append(folders[NODES].json("block.json", number))
    starts = np.cumsum([0, *(len(block) for block in divided)])
    # Groups of 11 images, all pairs of each of which are near.
    members = rng.permutation(nodes)[: pairs // 55 * 11].reshape(-1, 11)
    i, j = np.triu_indices(11, 1)
    a, b = members[:, i].ravel(), members[:, j].ravel()
    a, b = np.minimum(a, b), np.maximum(a, b)
    similarity = np.round(rng.uniform(FLOOR, 1, len(a)), 6)
    block_a, block_b = (np.searchsorted(starts, side, side="right") - 1 for side in (a, b))
    tile = {pair: number for number, pair in enumerate(tiles(blocks))}
    of_pair = np.array([[tile.get((x, y), -1) for y in range(blocks)] for x in range(blocks)])[block_a, block_b]
    order = np.lexsort((b, a, of_pair))
    bounds = np.searchsorted(of_pair[order], np.arange(len(tile) + 1))
    for unit in range(len(tile)):
        some = order[bounds[unit] : bounds[unit + 1]]
        rows = [side[some] - starts[block[some]] for side, block in ((a, block_a), (b, block_b))]
        table = pa.table([*(side.astype(np.int32) for side in rows), similarity[some]], schema=schema.NEAR)
        out = folders[SEARCH].outputs(unit)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / NEAR
            with pq.ParquetWriter(path, schema.NEAR, compression="zstd", write_page_checksum=True) as writer:
                writer.write_table(table, row_group_size=NEAR_GROUP)
            out.put_file(NEAR, path, rows=len(some))
        out.commit()
    whole = folders[SEARCH].outputs()
    whole.put_json(CERTIFICATE, {"kind": "image_embedding", "blocks": facts, "dense": 0})
    whole.counts.update(tiles=len(tile))
    whole.commit()
    return FoundPairs(folders[SEARCH], folders[NODES])


def main() -> int:
    """Runs each set in a process of its own, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=10_000_000)
    parser.add_argument("--only", choices=["unrelated", *COSINES, "decision"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only == "decision":
        with tempfile.TemporaryDirectory() as root:
            decision = decided(stored_pairs(Store(f"{root}/run"), arguments.nodes, arguments.pairs), Path(root))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(json.dumps({**decision, "pairs": arguments.pairs, "process_memory_mb": memory}))
        return 0
    if arguments.only:
        print(json.dumps(one_set(arguments.only, arguments.images, arguments.dim)))
        return 0
    wanted = ["unrelated", *COSINES] if arguments.images else []
    wanted += ["decision"] if arguments.pairs else []
    said: dict[str, Any] = {}
    for name in wanted:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        said[name] = json.loads(lines[-1])
        print(f"{name}: {said[name]}", flush=True)
    figures: dict[str, Any] = {"decision": said.pop("decision", None), "sets": said}
    if said:
        names = ("search_cpu_seconds", "search_memory_mb", "decision_cpu_seconds")
        ratio = {name: round(said["placeholders"][name] / said["unrelated"][name], 2) for name in names}
        figures["dense_ratio"] = {**ratio, "stored_per_image": said["placeholders"]["stored"] / arguments.images}
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
