"""Measures the memory and time that `plan` takes for a long list, in one unit and by units.

    python benchmarks/plan.py [rows] [workers]

Writes one parquet list (url, caption, width, height, similarity). Plans it as one unit in a process of its own, and
prints that process's peak memory, the list's size and the rows per second; then by units (`curate.plan.long_lists`) in
worker processes (2). The last line is JSON: rows, CPU microseconds a row of both ways, of all processes together, and
the seconds of the one unit divided by those of the workers, which mean something on idle cores only. Linux only.

Measured with 2,000,000 rows: 10.1 µs of CPU a row in one unit, 14.3 by units, part of it the starts of processes.

Measured with 10,000,000 rows (626 MB of parquet, 1,000 parts) on two cores that were also used by other work: 497 MB at
most, 230 s. The point is the memory, which hardly depends on the length of the list: 1,000,000 rows took 437 MB.
"""

import json
import os
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


def plan_by_units(path: Path, run: Path, workers: int) -> tuple[float, float]:
    """Plans the list by units in worker processes; returns seconds, and CPU seconds of all processes."""
    from rich.console import Console

    from curate.commands.progress import watch
    from curate.engine.local import LocalEngine
    from curate.plan import passes
    from curate.recipe import Source
    from curate.runs.driver import drive
    from curate.runs.passes import Declaration, Pass
    from curate.store import Store

    settings = {"source": Source(paths=[str(path)]).model_dump(mode="json"), "seed": 0, "part_size": 10_000}
    plan = Pass.of(Store(str(run)), Declaration("plan", "plan", 0))
    engine, watcher = LocalEngine(), watch(Console(quiet=True))
    begun, cpu = time.monotonic(), cpu_seconds()
    try:
        for work in passes.by_units(plan, {**settings, "endpoint": None}, [path.stat().st_size], workers):
            drive([work], engine, watcher)
    finally:
        engine.close()
        watcher.close()
    return time.monotonic() - begun, cpu_seconds() - cpu


def cpu_seconds() -> float:
    """CPU seconds of this process, and of its children that have ended, with theirs."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    """Writes the list, plans it both ways, and prints the figures."""
    if sys.argv[1:2] == ["--plan"]:
        plan_it(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    rows = int(sys.argv[1]) if sys.argv[1:] else 10_000_000
    workers = int(sys.argv[2]) if sys.argv[2:] else 2
    with tempfile.TemporaryDirectory(prefix="curate-bench-") as scratch:
        path = Path(scratch) / "list.parquet"
        write_list(path, rows)
        size = path.stat().st_size >> 20
        command = [sys.executable, __file__, "--plan", str(path), str(Path(scratch) / "run")]
        cpu = cpu_seconds()
        took = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        cpu = cpu_seconds() - cpu
        seconds, cpu_by_units = plan_by_units(path, Path(scratch) / "by-units", workers)
    print(
        f"{took['rows']:,} rows, {size} MB of parquet, {took['parts']:,} parts: {took['peak_mb']} MB at most, "
        f"{took['seconds']} s, {took['rows'] / took['seconds']:,.0f} rows/s"
    )
    figures = {
        "rows": rows,
        "cpu_us_a_row": round(cpu / rows * 1e6, 1),
        "cpu_us_a_row_by_units": round(cpu_by_units / rows * 1e6, 1),
        "workers": workers,
        "speed_up": round(took["seconds"] / seconds, 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
