"""The fetch stage of samples: a part's plan in, `images.tar` and `images.parquet` out, read from tars and folders.

Nothing is downloaded and no host is asked. The bytes go through the same caps, blocklist and normaliser as those
of a download.
"""

import tarfile
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from curate.errors import RecipeError, SourceError
from curate.fetch.contract import FetchError, Outcome, Picture, Received
from curate.fetch.part import distinct_images, table_of, write
from curate.fetch.pictures import blocklist
from curate.fetch.pictures.normalise import Normaliser
from curate.fetch.pictures.sorted_tar import Spool
from curate.fetch.settings import Settings
from curate.scratch import scratch
from curate.store import Inputs, Outputs, Store

GAP = 64 << 10
"""Two images of one tar are read at once where no more than so many bytes lie between them."""

RANGE = 4 << 20
"""Bytes of one reading, unless a single image is larger."""

_HEADER = tarfile.BLOCKSIZE
_COLUMNS = ("image_id", "sample_place", "sample_member", "sample_offset", "sample_bytes", "sample_fault")


Result = tuple["Member", Outcome, Picture | None]


@dataclass(frozen=True)
class Member:
    """Where an image lies.

    Args:
        place: of the run's places, by number.
        offset: of its first byte in a tar.
        name: of the member; of a folder, the file below it.
        size: in bytes.
        image: the part's image that it is, by position.
    """

    place: int
    offset: int
    name: str
    size: int
    image: int


def open_worker(settings: Mapping[str, Any]) -> "MembersWorker":
    """A worker for many parts.

    Args:
        settings: the recipe's `fetch` section; `endpoint`, of an S3 server; `blocked`, what the blocklists said
            when the run was laid out; `places`, the paths of tars and folders, as the plan numbers them.

    Raises:
        UsageError: a setting or a blocklist is no good.
    """
    listed = blocklist.read(settings["blocklists"], settings["endpoint"])
    if listed.fingerprint != settings["blocked"]:
        raise RecipeError("fetch.blocklists: they changed during the run; start it again")
    # What is odd about a stranger's file is said in its row, not on this process's terminal.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    return MembersWorker(Settings.of(settings), listed, settings["places"], settings["endpoint"])


class MembersWorker:
    """Reads a part's distinct images out of tars and folders.

    Args:
        settings: of fetching; those of the network play no part.
        listed: digests that are never stored.
        places: paths of tars and folders.
        endpoint: the S3 server, as for `Store`.
    """

    def __init__(
        self, settings: Settings, listed: blocklist.Blocklist, places: Sequence[str], endpoint: str | None
    ) -> None:
        self._settings = settings
        self._blocklist = listed
        self._places = [Store(path, endpoint) for path in places]
        self._normalise = Normaliser(settings)

    def __call__(self, unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        """Reads one part's images into `outputs["fetch"]`.

        Raises:
            BrokenResult: the plan is not in its order.
            SourceError: a tar or file is gone, or is not what it was when the run was planned.
            OSError: the local disk or the store does not take the pictures.
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
                    said = f"{copies[member.image]} samples give its URL, with different images"
                    outcomes[member.image] = Outcome()
                    outcomes[member.image].failed(FetchError("ambiguous", said))
                elif known.sha256 is None:
                    outcomes[member.image] = outcome
                    if picture is not None:
                        spool.add(member.image, picture.data)
        return outcomes

    def _results(self, members: Sequence[Member]) -> Iterator[list[Result]]:
        """What becomes of each range of members, in their order; bytes under way are bounded."""
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
        """Reads members that lie side by side and normalises each."""
        bodies = self._bodies(members)
        return [(member, *self._one(body)) for member, body in zip(members, bodies, strict=True)]

    def _bodies(self, members: Sequence[Member]) -> Iterator[bytes]:
        first, last = members[0], members[-1]
        store = self._places[first.place]
        try:
            if not first.offset:
                # One file of a folder; one more byte shows whether it has grown.
                data = store.read_range(unquote(first.name, errors="surrogateescape"), 0, first.size + 1)
                if len(data) != first.size:
                    raise self._changed(first)
                yield data
                return
            start = first.offset - _HEADER
            data = store.read_range("", start, last.offset + last.size)
        except (FileNotFoundError, PermissionError) as error:
            # Of everything else, such as a broken connection, another start of the part may know better.
            said = error.strerror or " ".join(str(error).split())
            raise SourceError(f"{store.url}: {first.name} cannot be read: {said}") from error
        for member in members:
            at = member.offset - start
            if not _is_header(data[at - _HEADER : at], member) or at + member.size > len(data):
                raise self._changed(member)
            yield data[at : at + member.size]

    def _changed(self, member: Member) -> SourceError:
        return SourceError(
            f"{self._places[member.place].url} changed since it was planned: {member.name} is not where it was; "
            "run it into another output"
        )

    def _one(self, body: bytes) -> tuple[Outcome, Picture | None]:
        received = Received(body)
        outcome = Outcome()
        outcome.received(received)
        try:
            if self._blocklist.names(body, received.sha256):
                raise FetchError("blocked_digest", "a blocklist names it")
            picture = self._normalise(body)
        except FetchError as error:
            outcome.failed(error)
            return outcome, None
        outcome.normalised(picture)
        outcome.stored = True
        return outcome, picture


def _members(pairs: pa.Table, outcomes: list[Outcome], max_bytes: int) -> tuple[list[Member], dict[int, int]]:
    """Where the part's images lie, in the order in which they are read, and how many places each image has.

    Images with a faulty sample, or too large a one, end here.
    """
    members: dict[tuple[int, int, str], Member] = {}
    copies: dict[int, int] = {}
    image, before = -1, None
    for row in pairs.to_pylist():
        image += row["image_id"] != before
        before = row["image_id"]
        place, name, offset, size, fault = (row[column] for column in _COLUMNS[1:])
        if fault is not None:
            error_class, _, said = fault.partition(": ")
            if outcomes[image].error_class is None:
                outcomes[image].failed(FetchError(error_class, said))
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
    """Members that are read at once: of one tar, with small gaps, and not too many bytes together."""
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
    """Whether a block is the tar header of this member."""
    try:
        said = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    name = unquote(member.name, errors="surrogateescape")
    # Longer and other names stand in headers of their own, before this one.
    plain = name.isascii() and len(name) <= tarfile.LENGTH_NAME
    return said.size == member.size and (said.name == name or not plain)
