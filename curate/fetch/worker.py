"""The fetch worker: downloads the images of a part's plan, writes `images.tar` and `images.parquet`."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import schema
from curate.errors import counted
from curate.fetch import known_urls
from curate.fetch.contract import FetchError, FetchPart, Outcome
from curate.fetch.downloader import Img2dataset
from curate.fetch.http.client import Guard
from curate.fetch.http.resolver import Resolver
from curate.fetch.known_urls import KnownUrls
from curate.fetch.part import distinct_images, table_of, write
from curate.fetch.pictures import blocklist, phash_blocklist
from curate.fetch.pictures.c2pa import forbidding_entry
from curate.fetch.pictures.decoders import NormalisingDecoders
from curate.fetch.pictures.expected import Expected, of_images
from curate.fetch.pictures.sorted_tar import Spool
from curate.fetch.salvage import intact
from curate.fetch.settings import Settings
from curate.scratch import scratch
from curate.store import Folder, Inputs, Json, Outputs

THREADS_PER_TURN = 4
MAX_THREADS = 256
"""Threads of a worker: THREADS_PER_TURN for each of the recipe's `threads`, and MAX_THREADS in all. MAX_THREADS also
bounds the number of concurrent requests to a server that is slow to answer."""


def open_worker(settings: Mapping[str, Any]) -> "FetchWorker":
    """Returns a worker that processes one part after the other; its DNS cache is kept between parts.

    Args:
        settings: the recipe's `fetch` section; `endpoint`, the S3 server of blocklists; `blocked` and `blocked_phash`,
            the fingerprints of the blocklists when the run was laid out (`Blocklist.fingerprint`,
            `PhashBlocklist.fingerprint`); `expects`, the columns of the plan with expected digests; optionally
            `before`, the files that damaged parts had, by part and role.

    Raises:
        UsageError: a setting is not valid, a blocklist cannot be read or has changed, or the installed img2dataset does
            not work with the guard.
    """
    read = Settings.of(settings)
    guard = Guard(read, Resolver(), blocklist=blocklist.as_laid_out(settings))
    # More threads than turns: a thread that waits for a name, a server or a retry does not delay the others.
    threads = min(MAX_THREADS, THREADS_PER_TURN * read.threads)
    # img2dataset's Downloader normalises in one thread, one image after the other.
    normalise = NormalisingDecoders(read, 1, phash_blocklist.as_laid_out(settings))
    fetch_part = Img2dataset(
        guard.queue, guard.fetch, normalise, threads=max(threads, read.threads), timeout=read.timeout
    )
    return FetchWorker(guard, fetch_part, read, settings["expects"], settings.get("before", {}))


class FetchWorker:
    """Fetches a part's distinct images.

    Args:
        guard: the guard whose `part` is open while a part is fetched.
        fetch_part: downloads, through the guard, and normalises.
        settings: the format of stored pictures, and what becomes of changed ones.
        expects: columns of the plan with expected digests.
        before: the files of damaged parts, by part and role, from which intact pictures are taken over.
    """

    def __init__(
        self,
        guard: Guard,
        fetch_part: FetchPart,
        settings: Settings,
        expects: Sequence[str] = (),
        before: Mapping[str, Json] = MappingProxyType({}),
    ) -> None:
        self._guard = guard
        self._fetch_part = fetch_part
        self._settings = settings
        self._columns = ["image_id", "url", *expects]
        self._before = before
        self._lists = contextlib.ExitStack()
        self._known: KnownUrls | None = None

    def __call__(self, unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        """Fetches one part into `outputs["fetch"]`.

        Raises:
            BrokenResult: the plan is not sorted.
            OSError: the pictures cannot be written to the local disk or the store.
        """
        out = outputs["fetch"]
        images, expected = self.images(inputs["plan"], unit)
        with scratch("fetch") as folder, Spool(folder / "spool") as spool:
            kept = intact(out.folder, unit, self._before.get(str(unit), {}), spool, first=len(images))
            is_kept = pc.is_in(images["image_id"], value_set=kept["image_id"].combine_chunks())
            is_known = pc.and_not(self._are_known(inputs, images["image_id"]), is_kept)
            is_left = pc.invert(pc.or_(is_kept, is_known))
            again = images.filter(is_left)
            wanted = [one for one, left in zip(expected, is_left.to_pylist(), strict=True) if left]
            fresh = self.fetch(again, wanted, spool, folder) if len(again) else schema.IMAGES.empty_table()
            known = _known(images["image_id"].filter(is_known), self._settings.format)
            whole = pa.concat_tables([fresh, kept, known])
            stored = [*range(len(fresh)), *range(len(images), len(images) + len(kept))]
            positions = pa.array([*stored, *[0] * len(known)], pa.int64())
            order = pc.index_in(images["image_id"].combine_chunks(), value_set=whole["image_id"].combine_chunks())
            write(out, whole.take(order), spool, folder, positions.take(order).to_pylist())
        if len(kept):
            out.notes.append(f"damaged, so {counted(len(fresh), 'image')} of {len(images)} fetched again")

    def _are_known(self, inputs: Inputs, ids: pa.ChunkedArray) -> pa.Array:
        """Returns which images an earlier result has (`fetch.known_results`)."""
        folder = inputs.folders.get(known_urls.NAME)
        if folder is None:
            return pa.array(np.zeros(len(ids), np.bool_))
        if self._known is None:
            # Kept as long as the worker, which looks up every part in it.
            self._known = KnownUrls(folder, self._lists.enter_context(scratch("known")))
        return pa.array(self._known.have(ids.to_pylist()))

    def images(self, plan: Folder, unit: int) -> tuple[pa.Table, list[Expected]]:
        """Returns image_id and url of a part's distinct images, and what is expected of each.

        Raises:
            BrokenResult: the plan is not sorted.
        """
        pairs = plan.table("pairs.parquet", unit, self._columns)
        return distinct_images(pairs).select(["image_id", "url"]), of_images(pairs)

    def fetch(self, images: pa.Table, expected: Sequence[Expected], spool: Spool, folder: Path) -> pa.Table:
        """Fetches images as one part.

        Args:
            images: a table with image_id and url.
            expected: what is expected of each of them.
            spool: receives each stored picture under its row's number.
            folder: a local scratch folder.

        Returns:
            Their rows of `schema.IMAGES`, in the same order.

        Raises:
            OSError: the pictures cannot be written to the local disk.
        """

        def check(position: int, body: bytes, outcome: Outcome) -> None:
            assert outcome.sha256 is not None
            entry = forbidding_entry(body) if self._settings.c2pa else None
            if entry:
                raise FetchError("opt_out", entry)
            try:
                expected[position].check(body, outcome.sha256)
            except FetchError as error:
                if self._settings.changed == "drop":
                    raise
                outcome.error = str(error)

        with self._guard.part():
            outcomes = self._fetch_part(images["url"].to_pylist(), spool, folder, check)
        return table_of(images["image_id"], outcomes, self._settings.format)


def _known(ids: pa.ChunkedArray, extension: str) -> pa.Table:
    """Returns the rows of images that are not fetched, as an earlier result has their URL."""
    outcome = Outcome()
    outcome.failed(FetchError("known_url", "an earlier result of fetch.known_results has its URL"))
    return table_of(ids, [outcome] * len(ids), extension) if len(ids) else schema.IMAGES.empty_table()
