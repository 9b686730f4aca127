"""Measures the memory and time that `plan` takes for a long list.

    python benchmarks/plan.py [rows]

Writes one parquet list (url, caption, width, height, similarity), plans it in a process of its own and prints
that process's peak memory, the list's size and the rows per second. Linux only.

Measured with 10,000,000 rows (626 MB of parquet, 1,000 parts) on two cores that were also used by other work: 497 MB at
most, 230 s. The point is the memory, which hardly depends on the length of the list: 1,000,000 rows took 437 MB.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BATCH = 500_000


def write_list(path: Path, rows: int) -> None:
    """Writes a realistic list: long URLs, captions of 3 to 20 words, and columns of numbers."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(5000)])
    sentences = np.array([" ".join(rng.choice(words, rng.integers(3, 20))) for _ in range(20_000)])
    writer = None
    for start in range(0, rows, BATCH):
        count = min(BATCH, rows - start)
        numbers = range(start, start + count)
        urls = [f"https://images{n % 997}.example.com/products/{n:012d}/photo-{n}.jpg" for n in numbers]
        table = pa.table(
            {
                "url": urls,
                "caption": rng.choice(sentences, count),
                "width": rng.integers(50, 4000, count, np.int32),
                "height": rng.integers(50, 4000, count, np.int32),
                "similarity": rng.random(count, np.float32),
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def plan_it(path: Path, run: Path) -> None:
    """Plans the list and prints seconds and peak memory as JSON."""
    from curate.plan.worker import open_worker
    from curate.recipe import Source
    from curate.store import WHOLE, Folder, Inputs, Store

    source = Source(paths=[str(path)]).model_dump(mode="json")
    settings = {"source": source, "seed": 0, "part_size": 10_000, "endpoint": None}
    out = Folder(Store(str(run)), "plan", "0").outputs()
    start = time.monotonic()
    open_worker(settings)(WHOLE, Inputs({}, []), {"plan": out})
    seconds = round(time.monotonic() - start, 1)
    # Not getrusage: its maximum includes the parent's memory before exec.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak, "Linux only"
    print(json.dumps({**out.counts, "peak_mb": int(peak[1]) >> 10, "seconds": seconds}))


def main() -> None:
    """Writes the list, plans it in a process of its own, and prints one line of figures."""
    if sys.argv[1:2] == ["--plan"]:
        plan_it(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    rows = int(sys.argv[1]) if sys.argv[1:] else 10_000_000
    with tempfile.TemporaryDirectory(prefix="curate-bench-") as scratch:
        path = Path(scratch) / "list.parquet"
        write_list(path, rows)
        size = path.stat().st_size >> 20
        command = [sys.executable, __file__, "--plan", str(path), str(Path(scratch) / "run")]
        took = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(
        f"{took['rows']:,} rows, {size} MB of parquet, {took['parts']:,} parts: {took['peak_mb']} MB at most, "
        f"{took['seconds']} s, {took['rows'] / took['seconds']:,.0f} rows/s"
    )


if __name__ == "__main__":
    main()
