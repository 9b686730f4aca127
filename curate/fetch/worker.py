"""The fetch stage: a part's plan in, `images.tar` and `images.parquet` out."""

import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate import schema
from curate.errors import BrokenResult, RecipeError
from curate.fetch import blocklist
from curate.fetch.contract import FetchPart, Outcome
from curate.fetch.downloader import Img2dataset
from curate.fetch.guard import Guard
from curate.fetch.normalise import Normaliser
from curate.fetch.resolver import Resolver
from curate.fetch.settings import Settings
from curate.fetch.spool import Spool
from curate.store import Inputs, Outputs

THREADS_PER_TURN = 4
MAX_THREADS = 256
"""Threads of a worker: so many for each of the recipe's `threads`, and in all. It also bounds the requests that a
server in trouble is given at once."""


def open_worker(settings: Mapping[str, Any]) -> "FetchWorker":
    """A worker for many parts; names stay resolved from part to part.

    Args:
        settings: the recipe's `fetch` section; `endpoint`, for blocklists on S3; `blocked`, what the blocklists
            said when the run was laid out (`Blocklist.fingerprint`).

    Raises:
        UsageError: a setting, a blocklist or the installed img2dataset is no good.
    """
    read = Settings.of(settings)
    listed = blocklist.read(settings["blocklists"], settings["endpoint"])
    if listed.fingerprint != settings["blocked"]:
        raise RecipeError("fetch.blocklists: they changed during the run; start it again")
    # What is odd about a stranger's file is said in its row, not on this process's terminal.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    guard = Guard(read, Resolver(), blocklist=listed)
    # More threads than turns: those that wait for a host, a server or a second try hold nobody up.
    threads = min(MAX_THREADS, THREADS_PER_TURN * read.threads)
    fetch_part = Img2dataset(guard.get, Normaliser(read), threads=max(threads, read.threads), timeout=read.timeout)
    return FetchWorker(guard, fetch_part, read.format)


class FetchWorker:
    """Fetches a part's distinct images.

    Args:
        guard: told when a part begins and ends.
        fetch_part: what downloads, through the guard, and normalises.
        extension: of stored pictures.
    """

    def __init__(self, guard: Guard, fetch_part: FetchPart, extension: str) -> None:
        self._guard = guard
        self._fetch_part = fetch_part
        self._extension = extension

    def __call__(self, unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        """Fetches one part into `outputs["fetch"]`.

        Raises:
            BrokenResult: the plan is not in its order.
            OSError: the local disk or the store does not take the pictures.
        """
        out = outputs["fetch"]
        images = distinct_images(inputs["plan"].table("pairs.parquet", unit, ["image_id", "url"]))
        with tempfile.TemporaryDirectory(prefix="curate-fetch-") as folder:
            scratch = Path(folder)
            with Spool(scratch / "spool") as spool:
                table = self.fetch(images, spool, scratch)
                self.write(out, table, spool, scratch, range(len(table)))

    def fetch(self, images: pa.Table, spool: Spool, scratch: Path) -> pa.Table:
        """Fetches images as one part.

        Args:
            images: image_id and url.
            spool: takes each stored picture under its row's number.
            scratch: a local folder.

        Returns:
            Their rows of `schema.IMAGES`, in the same order.

        Raises:
            OSError: the local disk does not take the pictures.
        """
        with self._guard.part():
            outcomes = self._fetch_part(images["url"].to_pylist(), spool, scratch)
        return self._table(images["image_id"], outcomes)

    def write(self, out: Outputs, table: pa.Table, spool: Spool, scratch: Path, positions: Sequence[int]) -> None:
        """Writes a part's files and counts.

        Args:
            out: of the part.
            table: every image's row.
            spool: holds the pictures.
            scratch: a local folder.
            positions: where each row's picture is in the spool, if there is one.
        """
        files = zip(table["file"].to_pylist(), positions, strict=True)
        spool.write_tar(scratch / "images.tar", ((name, position) for name, position in files if name is not None))
        out.put_file("images.tar", scratch / "images.tar", rows=pc.count(table["file"]).as_py())
        out.put_table("images.parquet", table)
        out.counts.update(_counts(table))
        lost = out.counts.get("error:internal", 0)
        if lost:
            out.notes.append(f"{lost} images ended as internal: a fault of this program, not of their servers")

    def _table(self, ids: pa.ChunkedArray, outcomes: Sequence[Outcome]) -> pa.Table:
        """Every image's row of `schema.IMAGES`."""
        rows = [
            {
                **asdict(outcome),
                "image_id": image_id,
                "status": schema.FETCHED if outcome.stored else "failed",
                "file": f"{image_id.hex()}.{self._extension}" if outcome.stored else None,
            }
            for image_id, outcome in zip(ids.to_pylist(), outcomes, strict=True)
        ]
        return pa.Table.from_pylist(rows, schema.IMAGES)


def distinct_images(pairs: pa.Table) -> pa.Table:
    """The first row of each image of a part's plan (image_id, url).

    Raises:
        BrokenResult: the rows do not stand in the order of image_id.
    """
    ids = pairs["image_id"].combine_chunks().cast(pa.binary())
    if len(ids) < 2:
        return pairs
    before, after = ids[:-1], ids[1:]
    if pc.any(pc.greater(before, after)).as_py():
        raise BrokenResult("plan: pairs.parquet is not sorted by image_id")
    first = pa.concat_arrays([pa.array([True]), pc.not_equal(before, after)])
    return pairs.filter(first)


def _counts(table: pa.Table) -> dict[str, int]:
    """A part's numbers, for the report."""
    stored = int(pc.count(table["file"]).as_py())
    return {
        "images": table.num_rows,
        "success": stored,
        "failed": table.num_rows - stored,
        "bytes": pc.sum(table["bytes"]).as_py() or 0,
        **{
            f"error:{name}": count
            for name, count in sorted(Counter(table["error_class"].drop_null().to_pylist()).items())
        },
    }
