"""The fetch worker for samples: reads a part's images from tars and folders, writes `images.tar` and `images.parquet`.

Nothing is downloaded and no request is sent. The bytes pass the same size limits, blocklists, check of C2PA
manifests and normaliser as those of a download.
"""

import os
import tarfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from curate.credentials import is_signed, redacted, shown
from curate.errors import SourceError
from curate.fetch.contract import FetchError, Outcome, Received
from curate.fetch.part import distinct_images, table_of, write
from curate.fetch.pictures import blocklist, phash_blocklist
from curate.fetch.pictures.blocklist import Blocklist
from curate.fetch.pictures.c2pa import forbidding_entry
from curate.fetch.pictures.decoders import NormalisingDecoders
from curate.fetch.pictures.phash_blocklist import PhashBlocklist
from curate.fetch.pictures.picture import Picture
from curate.fetch.pictures.sorted_tar import Spool
from curate.fetch.settings import Settings
from curate.scratch import scratch
from curate.store import Inputs, Outputs, Store, access_errors

GAP = 64 << 10
"""Two images of one tar are read in one request where at most this many bytes lie between them."""

RANGE = 4 << 20
"""Most bytes of one request, unless a single image is larger."""

_HEADER = tarfile.BLOCKSIZE
_COLUMNS = ("image_id", "sample_place", "sample_member", "sample_offset", "sample_bytes", "sample_fault")


Result = tuple["Member", Outcome, Picture | None]


@dataclass(frozen=True)
class Member:
    """The location of an image's bytes.

    Args:
        place: number of the tar or folder among the run's places.
        offset: offset of the first byte in a tar; 0 for a file of a folder.
        name: the tar member, or the file's path below the folder.
        size: size in bytes.
        image: position of the image among the part's distinct images.
    """

    place: int
    offset: int
    name: str
    size: int
    image: int


def open_worker(settings: Mapping[str, Any]) -> "MembersWorker":
    """Returns a worker that processes one part after the other.

    Args:
        settings: the recipe's `fetch` section; `endpoint`, an S3 server other than AWS; `blocked` and `blocked_phash`,
            the fingerprints of the blocklists when the run was laid out; `places`, the paths of tars and folders in the
            plan's numbering.

    Raises:
        UsageError: a setting is not valid, or a blocklist cannot be read or has changed.
    """
    listed, near = blocklist.as_laid_out(settings), phash_blocklist.as_laid_out(settings)
    return MembersWorker(Settings.of(settings), listed, near, settings["places"], settings["endpoint"])


class MembersWorker:
    """Reads a part's distinct images from tars and folders.

    Args:
        settings: the settings of fetch; those of the network have no effect.
        listed: digests of files that are never stored.
        near: hashes of pictures that are never stored.
        places: paths of tars and folders.
        endpoint: an S3 server other than AWS, as for `Store`.
    """

    def __init__(
        self,
        settings: Settings,
        listed: Blocklist,
        near: PhashBlocklist,
        places: Sequence[str],
        endpoint: str | None,
    ) -> None:
        self._settings = settings
        self._blocklist = listed
        self._places = [Store(path, endpoint) for path in places]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._normalise = NormalisingDecoders(settings, min(cores, settings.threads), near)

    def __call__(self, unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        """Reads one part's images into `outputs["fetch"]`.

        Raises:
            BrokenResult: the plan is not sorted.
            SourceError: a tar or file is missing, or changed since the run was planned.
            OSError: the pictures cannot be written to the local disk or the store.
        """
        pairs = inputs["plan"].table("pairs.parquet", unit, list(_COLUMNS))
        ids = distinct_images(pairs)["image_id"]
        with scratch("fetch") as folder, Spool(folder / "spool") as spool:
            outcomes = self._read(pairs, len(ids), spool)
            table = table_of(ids, outcomes, self._settings.format)
            write(outputs["fetch"], table, spool, folder, range(len(table)))

    def _read(self, pairs: pa.Table, images: int, spool: Spool) -> list[Outcome]:
        outcomes = [Outcome() for _ in range(images)]
        members, copies = _members(pairs, outcomes, self._settings.max_bytes)
        for results in self._results(members):
            for member, outcome, picture in results:
                known = outcomes[member.image]
                if known.error_class == "ambiguous":
                    continue
                if known.sha256 is not None and known.sha256 != outcome.sha256:
                    message = f"{copies[member.image]} samples give its URL, with different images"
                    outcomes[member.image] = Outcome()
                    outcomes[member.image].failed(FetchError("ambiguous", message))
                elif known.sha256 is None:
                    outcomes[member.image] = outcome
                    if picture is not None:
                        spool.add(member.image, picture.data)
        return outcomes

    def _results(self, members: Sequence[Member]) -> Iterator[list[Result]]:
        """Yields the results of each range of members, in their order; bytes read ahead are bounded."""
        waiting: deque[tuple[int, Future[list[Result]]]] = deque()
        held = 0
        with ThreadPoolExecutor(self._settings.threads) as pool:
            for ranged in _ranges(members):
                size = sum(member.size for member in ranged)
                while waiting and (
                    held + size > self._settings.waiting_bytes or len(waiting) > 2 * self._settings.threads
                ):
                    done, future = waiting.popleft()
                    held -= done
                    yield future.result()
                waiting.append((size, pool.submit(self._range, ranged)))
                held += size
            while waiting:
                yield waiting.popleft()[1].result()

    def _range(self, members: Sequence[Member]) -> list[Result]:
        """Reads adjacent members in one request and normalises each."""
        bodies = self._bodies(members)
        return [(member, *self._one(body)) for member, body in zip(members, bodies, strict=True)]

    def _bodies(self, members: Sequence[Member]) -> Iterator[bytes]:
        first, last = members[0], members[-1]
        store = self._places[first.place]
        try:
            if not first.offset:
                # A file of a folder: one byte more than its size is read, which shows whether it has grown.
                data = store.read_range(unquote(first.name, errors="surrogateescape"), 0, first.size + 1)
                if len(data) != first.size:
                    raise self._changed(first)
                yield data
                return
            start = first.offset - _HEADER
            data = store.read_range("", start, last.offset + last.size)
        except access_errors(store.url) as error:
            is_refused = getattr(error, "status", None) in (401, 403, 410)
            if not is_refused and not isinstance(error, FileNotFoundError | PermissionError):
                raise
            # Any other error, such as a broken connection, may be temporary: it fails this start of the part, and the
            # next start tries again.
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            hint = "; its signature may have expired" if is_refused and is_signed(store.url) else ""
            raise SourceError(f"{shown(store.url)}: {first.name} cannot be read: {redacted(reason)}{hint}") from error
        for member in members:
            at = member.offset - start
            if not _is_header(data[at - _HEADER : at], member) or at + member.size > len(data):
                raise self._changed(member)
            yield data[at : at + member.size]

    def _changed(self, member: Member) -> SourceError:
        return SourceError(
            f"{shown(self._places[member.place].url)} changed since it was planned: {member.name} is not at its place; "
            "choose another output for the changed source"
        )

    def _one(self, body: bytes) -> tuple[Outcome, Picture | None]:
        received = Received(body)
        outcome = Outcome()
        outcome.received(received)
        try:
            if self._blocklist.names(body, received.sha256):
                raise FetchError("blocked_digest", "its digest is on a blocklist")
            entry = forbidding_entry(body) if self._settings.c2pa else None
            if entry:
                raise FetchError("opt_out", entry)
            picture = self._normalise(body)
        except FetchError as error:
            outcome.failed(error)
            return outcome, None
        outcome.normalised(picture)
        outcome.stored = True
        return outcome, picture


def _members(pairs: pa.Table, outcomes: list[Outcome], max_bytes: int) -> tuple[list[Member], dict[int, int]]:
    """Returns the locations of the part's images, in reading order, and the number of locations of each image.

    The outcome of an image whose sample is faulty or too large is set to failed here, and it has no location.
    """
    members: dict[tuple[int, int, str], Member] = {}
    copies: dict[int, int] = {}
    image, before = -1, None
    for row in pairs.to_pylist():
        image += row["image_id"] != before
        before = row["image_id"]
        place, name, offset, size, fault = (row[column] for column in _COLUMNS[1:])
        if fault is not None:
            error_class, _, message = fault.partition(": ")
            if outcomes[image].error_class is None:
                outcomes[image].failed(FetchError(error_class, message))
        elif size > max_bytes:
            if outcomes[image].error_class is None:
                outcomes[image].bytes = size
                outcomes[image].failed(FetchError("too_large", f"{size:,} bytes"))
        else:
            members.setdefault((place, offset, name), Member(place, offset, name, size, image))
    kept = [member for _, member in sorted(members.items()) if outcomes[member.image].error_class is None]
    for member in kept:
        copies[member.image] = copies.get(member.image, 0) + 1
    return kept, copies


def _ranges(members: Sequence[Member]) -> Iterator[list[Member]]:
    """Groups members that are read in one request: of one tar, at most GAP bytes apart, in all at most RANGE bytes."""
    ranged: list[Member] = []
    for member in members:
        if ranged:
            first, last = ranged[0], ranged[-1]
            near = first.place == member.place and bool(first.offset) and bool(member.offset)
            end = member.offset + member.size
            if not near or member.offset - last.offset - last.size > GAP or end - first.offset > RANGE:
                yield ranged
                ranged = []
        ranged.append(member)
    if ranged:
        yield ranged


def _is_header(block: bytes, member: Member) -> bool:
    """Returns whether a block is the tar header of this member."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    name = unquote(member.name, errors="surrogateescape")
    # Names that are long or not ASCII are in a separate header before this one, so they are not compared.
    plain = name.isascii() and len(name) <= tarfile.LENGTH_NAME
    return header.size == member.size and (header.name == name or not plain)
