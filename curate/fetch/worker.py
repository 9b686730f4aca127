"""The fetch stage: a part's plan in, `images.tar` and `images.parquet` out."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.errors import RecipeError
from curate.fetch.contract import FetchPart
from curate.fetch.downloader import Img2dataset
from curate.fetch.http.client import Guard
from curate.fetch.http.resolver import Resolver
from curate.fetch.part import distinct_images, table_of, write
from curate.fetch.pictures import blocklist
from curate.fetch.pictures.normalise import Normaliser
from curate.fetch.pictures.sorted_tar import Spool
from curate.fetch.settings import Settings
from curate.scratch import scratch
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
        with scratch("fetch") as folder, Spool(folder / "spool") as spool:
            table = self.fetch(images, spool, folder)
            write(out, table, spool, folder, range(len(table)))

    def fetch(self, images: pa.Table, spool: Spool, folder: Path) -> pa.Table:
        """Fetches images as one part.

        Args:
            images: image_id and url.
            spool: takes each stored picture under its row's number.
            folder: a local one.

        Returns:
            Their rows of `schema.IMAGES`, in the same order.

        Raises:
            OSError: the local disk does not take the pictures.
        """
        with self._guard.part():
            outcomes = self._fetch_part(images["url"].to_pylist(), spool, folder)
        return table_of(images["image_id"], outcomes, self._extension)
