"""Measures what the driver costs in a run of many parts: CPU, memory, a restart, and requests where all is done.

    python benchmarks/drive.py [--parts 100000] [--rows 1000000000]

Three chained works over all parts, with an engine whose workers only write markers; their CPU time is not counted.
The driver is interrupted when half of the units are done and started again. Then a whole run (the recipe's passes, with
a model and two signals) is laid out as finished on an object store that counts requests, a listing as one for every
1,000 names, and `flow.run` is called on it: nothing is left to do.

The last line is JSON: `parts`; `ms_per_part`, milliseconds of driver CPU a part, for all three works together;
`memory_mb`, the driver's peak; `restart_s`, seconds from the second start to its first unit; `requests_idle`.
The results are in benchmarks/README.md.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.memory import MemoryFileSystem

from curate import flow, summaries
from curate.layout import lay_out
from curate.prepare import Prepared, prepare
from curate.recipe import parse
from curate.runs.driver import drive
from curate.runs.identity import claim
from curate.runs.options import Options
from curate.runs.passes import Declaration, Pass
from curate.runs.work import UnitResult, Work
from curate.store import FileInfo, Folder, Inputs, Marker, Store, parquet_bytes

WORKERS = 512
"""Units that the stub takes at once."""

PAGE = 1000
"""Names in one answer to a listing, as on S3."""


class Stub:
    """An engine whose workers write the markers of units, and nothing else; stops its driver after so many results."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.works: dict[str, Work] = {}
        self.queue: deque[tuple[str, int]] = deque()
        self.seconds = 0.0
        self.first: float | None = None
        self.left = stop_after

    def start(self, work: Work, _session: str) -> int:
        """See `curate.runs.work.Engine`, also for the methods below."""
        self.works[work.name] = work
        return WORKERS

    def submit(self, name: str, unit: int, _start: int) -> None:
        """Queues the unit."""
        self.first = self.first or time.monotonic()
        self.queue.append((name, unit))

    def wait(self, _seconds: float) -> list[tuple[str, UnitResult]]:
        """Does the next unit."""
        if self.left == 0:
            raise KeyboardInterrupt
        if self.left is not None:
            self.left -= 1
        before = time.thread_time()
        name, unit = self.queue.popleft()
        markers = {}
        for short, pass_ in self.works[name].outputs.items():
            markers[short] = asdict(commit(pass_.folder, unit))
        self.seconds += time.thread_time() - before
        return [(name, UnitResult(unit, "done", markers=markers))]

    def running(self) -> list[tuple[str, int, float]]:
        """Nothing runs between two calls."""
        return []

    def kill(self, _name: str, _unit: int) -> None:
        """Does nothing: there are no processes."""

    def finish(self, _name: str) -> None:
        """Does nothing: there are no processes."""

    def close(self, within: float = 0.0) -> None:
        """Does nothing."""


class Silent:
    """A watcher that shows nothing."""

    def begin(self, *_: object) -> None:
        """Shows nothing."""

    advance = end = tell = begin


def commit(folder: Folder, unit: int) -> Marker:
    """Writes a marker as a worker's is: two files, some counts."""
    made = marker(unit, {"images": 10_000, "success": 9_000, "error:http_4xx": 800, "error:timeout": 200})
    path = Path(folder.store.path(folder.marker_name(unit)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.to_json())
    return made


def marker(unit: int, counts: Mapping[str, int], size: int = 123_456) -> Marker:
    """Makes a marker of the usual length, of two files."""
    names = ("images.parquet", "images.tar")
    files = {role: FileInfo(f"images/{unit:06d}.{unit:08x}.{role[7:]}", size, "0" * 64, 10_000) for role in names}
    return Marker(unit, f"{unit:08x}", files, counts, 12.345, 1_700_000_000.0)


def chained(store: Store, parts: int) -> list[Work]:
    """Three works, each after the one before, as fetch, embed and signals are."""
    works: list[Work] = []
    for name in ("fetch", "embed", "signals"):
        made = {name: Pass.of(store, Declaration(name, name, 1, by_part=True))}
        after = (works[-1].name,) if works else ()
        works.append(Work(name, "", {}, made, Inputs({}, ()), range(parts), 10_000, after=after, total=parts))
    return works


def phase(folder: str, parts: int, stop_after: int | None) -> None:
    """Drives the works and prints what it cost; one process, as a command is."""
    engine, begun, before = Stub(stop_after), time.monotonic(), time.process_time()
    try:
        drive(chained(Store(folder), parts), engine, Silent())
    except KeyboardInterrupt:
        assert stop_after is not None
    used = time.process_time() - before - engine.seconds
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert engine.first
    print(json.dumps({"cpu": used, "memory_mb": memory, "first_s": engine.first - begun}))


OF_RESULT = 1
"""Bytes of each file of the result; only their number and sizes are looked at."""


class CountedFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """An object store in memory that counts the requests that S3 would get."""

    protocol = "s3"
    store: dict[str, Any] = {}  # noqa: RUF012 - fsspec's own form
    pseudo_dirs = [""]  # noqa: RUF012
    cachable = False
    requests: ClassVar[Counter[str]] = Counter()

    def _asked(self, what: str, times: int = 1) -> None:
        CountedFileSystem.requests[what] += times

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        """A listing: a request for each page."""
        try:
            found = super().ls(path, detail=detail, **kwargs)
        except FileNotFoundError:
            self._asked("list")
            raise
        self._asked("list", max(1, math.ceil(len(found) / PAGE)))
        return found

    def find(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """A listing of a folder and of its folders: a request for each page."""
        found = super().find(path, *args, **kwargs)
        self._asked("list", max(1, math.ceil(len(found) / PAGE)))
        return found

    def isfile(self, path: str) -> bool:
        """A request."""
        self._asked("head")
        return bool(super().isfile(path))

    def exists(self, path: str, **kwargs: Any) -> bool:
        """A request."""
        self._asked("head")
        return bool(super().exists(path, **kwargs))

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        self._asked("get")
        return super()._open(path, mode, **kwargs)

    def info(self, path: str, **kwargs: Any) -> Any:
        """A request."""
        self._asked("head")
        return super().info(path, **kwargs)

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """A request."""
        self._asked("get")
        return super().cat_file(path, *args, **kwargs)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """A request; creates only where nothing is, if asked to."""
        self._asked("put")
        path = self._strip_protocol(path)
        if mode == "create" and path in self.store:
            raise FileExistsError(path)
        super().pipe_file(path, value)

    def rm_file(self, path: str) -> None:
        """A request."""
        self._asked("delete")
        self.store.pop(self._strip_protocol(path), None)


class Refusing:
    """An engine that has nothing to run."""

    def close(self) -> None:
        """Does nothing."""

    def start(self, work: Work, _session: str) -> int:
        """Stops the benchmark: a unit would run."""
        raise AssertionError(f"{work.name} is not done: {work.done()}")


def finished(prepared: Prepared, parts: int, rows: int) -> None:
    """Lays out a run in which every pass is done."""
    recipe, store = prepared.recipe, prepared.store
    layout = lay_out(prepared, parts, rows)
    claim(store, prepared.identity)
    kept = rows // 4
    shards = math.ceil(kept / recipe.pack.shard_size)
    for name, pass_ in layout.passes.items():
        pass_.settle()
        folder = pass_.folder
        if pass_.declared.by_part:
            summarise(folder, range(parts), {"images": 10_000, "success": 9_000})
        if name == "plan":
            done(folder, {"parts": parts, "rows": rows})
        elif name == "select":
            counts = pa.table(
                {"part": range(parts), "planned": [rows // parts] * parts, "kept": [kept // parts] * parts}
            )
            funnel = json.dumps({"planned": rows, "kept": kept // parts * parts, "steps": []}).encode()
            files = {"parts.parquet": parquet_bytes(counts), "funnel.json": funnel}
            done(folder, {"kept": kept // parts * parts}, files)
        elif name == "pack":
            whole, rest = divmod(kept // parts * parts, recipe.pack.shard_size)
            sizes = [recipe.pack.shard_size] * whole + [rest] * (rest > 0)
            assert len(sizes) in (shards, shards - 1)
            summarise(folder, range(len(sizes)), sizes)
            # A run looks at the sizes of the result's files before it prints the result.
            for shard, samples in enumerate(sizes):
                for info in marker(shard, {"samples": samples}, OF_RESULT).files.values():
                    folder.store.put(f"{folder.path}/{info.name}", bytes(info.bytes))
            done(folder, {})
        elif not pass_.declared.by_part:
            done(folder, {}, {"index.html": b""} if name == "report" else None)


def summarise(folder: Folder, units: range, counts: Mapping[str, int] | Sequence[int]) -> None:
    """Writes the summaries of a pass that has no single markers, so that a listing of these finds nothing."""
    for first in range(0, len(units), summaries.BLOCK):
        block = units[first : first + summaries.BLOCK]
        of = {
            unit: asdict(
                marker(unit, counts)
                if isinstance(counts, Mapping)
                else marker(unit, {"samples": counts[unit]}, OF_RESULT)
            )
            for unit in block
        }
        folder.store.put(summaries.name(folder, first), json.dumps({"markers": of}).encode())


def done(folder: Folder, counts: Mapping[str, int], files: Mapping[str, bytes] | None = None) -> None:
    """Writes the whole's marker, and its files."""
    out = folder.outputs()
    out.counts |= counts
    for role, data in (files or {}).items():
        out.put(role, data)
    out.commit()


def idle(parts: int, rows: int) -> Counter[str]:
    """Returns the requests of a run with nothing to do."""
    fsspec.register_implementation("s3", CountedFileSystem, clobber=True)
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.table({"url": ["http://a/1"], "caption": ["a b"]}), f"{folder}/list.parquet")
        recipe = parse(
            {
                "version": 1,
                "source": {"paths": [f"{folder}/list.parquet"]},
                "output": "s3://bucket/run",
                "signals": {"concepts": {"mark": ["a watermark", "a photo"]}},
                "select": [{"drop": "small", "where": "width < 64"}],
            }
        )
        prepared = prepare(recipe)
        finished(prepared, parts, rows)
        # The first command after it writes what is remembered, and the manifest.
        for _ in range(2):
            CountedFileSystem.requests.clear()
            flow.run(prepare(recipe), Refusing(), Silent(), Options())  # type: ignore[arg-type]
    return CountedFileSystem.requests


def main() -> None:
    """Runs the phases, each in a process of its own, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=1_000_000_000)
    parser.add_argument("--phase", nargs=2, metavar=("FOLDER", "STOP"))
    arguments = parser.parse_args()
    parts = arguments.parts
    if arguments.phase:
        folder, stop = arguments.phase
        phase(folder, parts, int(stop) or None)
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for stop in (3 * parts // 2, 0):
            command = [sys.executable, __file__, "--parts", str(parts), "--phase", folder, str(stop)]
            ran = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(json.loads(ran.stdout.splitlines()[-1]))
    requests = idle(parts, arguments.rows)
    print(f"requests of a run with nothing to do: {dict(requests)}")
    print(
        json.dumps(
            {
                "parts": parts,
                "ms_per_part": round(1000 * sum(result["cpu"] for result in results) / parts, 3),
                "memory_mb": round(max(result["memory_mb"] for result in results)),
                "restart_s": round(results[1]["first_s"], 1),
                "requests_idle": requests.total(),
            }
        )
    )


if __name__ == "__main__":
    main()
