"""Runs img2dataset's Downloader for one part, with all of its requests sent through the guard.

How the guard is attached, and what would break it: docs/decisions/0002-img2dataset-under-a-guard.md. In short, for
the time of a part

- `urllib.request.urlopen`, which img2dataset calls for each image, uses an opener that calls the guard;
- `img2dataset.downloader.download_image`, which receives an image's row number, is wrapped by a function that takes the
  next image from the part's queue instead, returns that image's row number, records its outcome and rejects bytes that
  did not come through the guard. An image that has to wait for its host is put back, and the next one taken.

Resizer and sample writer are constructor parameters of the Downloader: the normaliser and the spool are passed there.
"""

import contextlib
import importlib
import importlib.util
import io
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import Any

import pyarrow as pa

from curate.errors import UsageError
from curate.fetch.contract import Check, FetchError, Normalise, Outcome, Received
from curate.fetch.http.limits import Lease
from curate.fetch.http.request import Request
from curate.fetch.http.urls import parse
from curate.fetch.pictures.sorted_tar import Spool
from curate.fetch.polite.hosts import Hosts, Later
from curate.fetch.polite.part_queue import PartQueue

Row = tuple[int, str]
Downloaded = tuple[int, Any, str | None]

Get = Callable[[Request], Received]
"""Fetches the image of a request; raises FetchError, or Later where the request is to be put back."""

_CANARY = "http://0.0.0.0/"
"""A URL that every guard refuses; requested once, to check that img2dataset's requests reach the guard."""


class Img2dataset:
    """Fetches parts with img2dataset; one part at a time in a process. A `contract.FetchPart`.

    Args:
        queue: returns the queue of a part's URLs: `Guard.queue`.
        get: fetches what the queue hands out: `Guard.fetch`.
        normalise: takes the place of img2dataset's resizer.
        threads: number of concurrent requests.
        timeout: seconds of one request that img2dataset passes to `urlopen`; the guard has a deadline of its own.

    Raises:
        UsageError: img2dataset cannot be imported, or does not call the functions that the guard is attached to.
    """

    def __init__(
        self,
        queue: Callable[[Sequence[str]], PartQueue],
        get: Get,
        normalise: Normalise,
        *,
        threads: int,
        timeout: float,
    ) -> None:
        self._queue = queue
        self._get = get
        self._normalise = normalise
        self._threads = threads
        self._timeout = timeout
        self._module = _imported()
        self._check_guarded()

    def __call__(self, urls: Sequence[str], spool: Spool, scratch: Path, check: Check | None = None) -> list[Outcome]:
        """Fetches every URL once; see `contract.FetchPart`."""
        outcomes = [Outcome() for _ in urls]
        if not urls:
            return outcomes
        writer = _Writer(outcomes, spool)
        downloader = self._module.Downloader(
            sample_writer_class=lambda *_: writer,
            resizer=self._resizer,
            thread_count=min(self._threads, len(urls)),
            save_caption=False,
            extract_exif=False,
            output_folder=str(scratch),
            column_list=["url", "row"],
            timeout=self._timeout,
            number_sample_per_shard=len(urls),
            oom_shard_count=1,
            compute_hash=None,
            verify_hash_type=None,
            encode_format="jpg",
            retries=0,
            user_agent_token=None,
            disallowed_header_directives=None,
        )
        shard = scratch / "urls.arrow"
        table = pa.table({"url": pa.array(urls, pa.string()), "row": pa.array(range(len(urls)), pa.int32())})
        with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_file(sink, table.schema) as stream:
            stream.write_table(table)
        with self._attached(outcomes, self._queue(urls), check):
            # Not by calling the object: `__call__` prints a part's failure and goes on.
            downloader.download_shard((0, str(shard)))
        if writer.error is not None:
            raise writer.error
        return [outcome.ended() for outcome in outcomes]

    def _resizer(self, stream: "_Body", _boxes: object = None) -> tuple[Any, ...]:
        """A resizer with img2dataset's signature; returns (bytes, width, height, original width and height, error)."""
        try:
            picture = self._normalise(stream.data)
        except FetchError as error:
            stream.outcome.failed(error)
            return None, None, None, None, None, error.error_class
        finally:
            stream.release()
        stream.outcome.normalised(picture)
        size = (picture.width, picture.height, picture.original_width, picture.original_height)
        return picture.data, *size, None

    @contextlib.contextmanager
    def _attached(self, outcomes: Sequence[Outcome], queue: PartQueue, check: Check | None = None) -> Iterator[None]:
        """Inside the block, img2dataset requests this queue's images through the guard, recorded in these outcomes."""
        original, opener_before = self._module.download_image, getattr(urllib.request, "_opener", None)
        opener = _GuardedOpener(self._get)
        self._module.download_image = _with_ledger(original, opener, outcomes, queue, check)
        urllib.request.install_opener(opener)
        try:
            yield
        finally:
            self._module.download_image = original
            urllib.request.install_opener(opener_before)  # None: urllib creates its default opener again

    def _check_guarded(self) -> None:
        """Has img2dataset request an address that the guard refuses. Raises UsageError if the guard is not called."""
        outcome = Outcome()
        with self._attached([outcome], PartQueue([_CANARY], Hosts(1, None, 1), lambda _: None)):
            self._module.download_image_with_retry((0, _CANARY), self._timeout, 0, None, None)
        if outcome.error_class != "blocked_address":
            raise UsageError("this release of img2dataset does not pass its requests to the guard; install 1.47")


class _Body:
    """Received bytes with their outcome and their memory lease, in place of the stream that img2dataset expects.

    A resizer receives this object and nothing else, so it has to carry both. `later`: no bytes, as the request is to be
    put back.
    """

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.lease: Lease | None = None
        self.later: Later | None = None
        self.data = b""

    def seek(self, _position: int) -> None:
        """Does nothing; img2dataset calls it before it passes the stream to the resizer."""

    def close(self) -> None:
        """Does nothing; img2dataset calls it after the resizer."""

    def release(self) -> None:
        """Returns the memory of the bytes; called once they are decoded."""
        if self.lease:
            self.lease.release()


class _GuardedOpener(urllib.request.OpenerDirector):
    """An opener for `urlopen` that calls the guard and records the result in the current thread's outcome."""

    def __init__(self, get: Get) -> None:
        super().__init__()
        self._get = get
        self._thread = threading.local()

    @contextlib.contextmanager
    def noting(self, request: Request, body: "_Body") -> Iterator[None]:
        """Inside the block, a call of this thread fetches this request, and is recorded in this body."""
        self._thread.request, self._thread.body = request, body
        try:
            yield
        finally:
            del self._thread.request, self._thread.body

    def open(self, fullurl: Any, data: Any = None, timeout: float | None = None) -> Any:  # noqa: ARG002
        request: Request = self._thread.request
        body: _Body = self._thread.body
        try:
            received = self._get(request)
        except Later as later:
            body.later = later
            raise
        except FetchError as error:
            body.outcome.failed(error)
            raise
        body.outcome.received(received)
        body.lease = received.lease
        return io.BytesIO(received.body)


def _with_ledger(
    download_image: Callable[..., Downloaded],
    opener: _GuardedOpener,
    outcomes: Sequence[Outcome],
    queue: PartQueue,
    check: Check | None,
) -> Callable[..., Downloaded]:
    """Wraps img2dataset's `download_image` such that it takes images from a queue and records their outcomes.

    Each call finishes one image: not that of the row it is called with, but the next whose host has a free slot.
    """

    def ledger(_: Row, *settings: Any, **more: Any) -> Downloaded:
        while True:
            request = queue.take()
            body = _Body(outcomes[request.row])
            downloaded = attempt(request, body, *settings, **more)
            if body.later is None:
                return downloaded
            queue.put_back(request, body.later.service)

    def attempt(request: Request, body: _Body, *settings: Any, **more: Any) -> Downloaded:
        key, outcome = request.row, body.outcome
        started = monotonic()
        stream = None
        try:
            # urllib parses URLs in its own way, so it is given only URLs that `parse` has put into canonical form.
            checked = parse(request.url).url
        except FetchError as error:
            outcome.failed(error)
        else:
            with opener.noting(request, body):
                _, stream, message = download_image((key, checked), *settings, **more)
            if stream is None and outcome.error_class is None and body.later is None:
                outcome.failed(FetchError("internal", message or "no reason given"))
            if stream is not None and outcome.sha256 is None:
                stream = None
                outcome.failed(FetchError("internal", "img2dataset returned bytes that did not pass the guard"))
        if stream is not None and check is not None:
            try:
                check(key, stream.getvalue(), outcome)
            except FetchError as error:
                stream = None
                outcome.failed(error)
        outcome.milliseconds = (outcome.milliseconds or 0) + round(1000 * (monotonic() - started))
        request.leave()
        if stream is None:
            body.release()
            return key, None, outcome.error_class
        body.data = stream.getvalue()
        return key, body, None

    return ledger


class _Writer:
    """A sample writer with img2dataset's interface that writes into the spool."""

    def __init__(self, outcomes: Sequence[Outcome], spool: Spool) -> None:
        self._outcomes = outcomes
        self._spool = spool
        self.error: OSError | None = None

    def write(self, picture: bytes | None, _key: str, _caption: None, row: dict[str, Any]) -> None:
        """Stores one row's picture; a failed row has none."""
        if picture is None:
            return
        try:
            self._spool.add(row["row"], picture)
        except OSError as error:
            # img2dataset prints what its writer raises and goes on, but a full disk has to fail the whole part.
            self.error = error
            raise
        self._outcomes[row["row"]].stored = True

    def close(self) -> None:
        """Does nothing: the caller of the part closes the spool."""


def _imported() -> Any:
    """Imports `img2dataset.downloader` without the package's `__init__`, which imports ray, torch and OpenCV.

    That `__init__` would cost each worker 12 seconds and 750 MB for modules that a download does not use. An empty
    package takes its place during this import only; a later `import img2dataset` gets the real one.
    """
    if "img2dataset" in sys.modules:
        return importlib.import_module("img2dataset.downloader")
    spec = importlib.util.find_spec("img2dataset")
    if spec is None:
        raise UsageError("img2dataset is not installed")
    stand_ins = {"img2dataset": importlib.util.module_from_spec(spec)}
    if "wandb" not in sys.modules:
        stand_ins["wandb"] = _when_used("wandb")
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module("img2dataset.downloader")
    finally:
        for name in stand_ins:
            del sys.modules[name]


def _when_used(name: str) -> ModuleType:
    """Returns a placeholder for a module that imports the module on the first access to one of its attributes.

    img2dataset.logger imports wandb for a monitor that is not used here. Importing wandb creates two temporary folders,
    which a killed worker would leave behind.
    """
    stand_in = ModuleType(name)
    vars(stand_in)["__getattr__"] = lambda attribute: getattr(importlib.import_module(name), attribute)
    return stand_in
