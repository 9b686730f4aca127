"""img2dataset's Downloader, driven for one part, with the guard beneath its requests.

How it is attached, and what would break it: docs/decisions/0002-img2dataset-under-a-guard.md. In short, for
the time of a part

- `urllib.request.urlopen`, which img2dataset calls for each image, goes to an opener that is the guard;
- `img2dataset.downloader.download_image`, which knows which image it is, is wrapped by one that keeps the
  ledger; and it lets no bytes pass that did not come through the guard.

Resizer and sample writer are constructor parameters: the normaliser and the spool stand there.
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
from curate.fetch.contract import FetchError, Get, Normalise, Outcome
from curate.fetch.http.limits import Lease
from curate.fetch.http.urls import parse
from curate.fetch.pictures.sorted_tar import Spool

Row = tuple[int, str]
Downloaded = tuple[int, Any, str | None]

_CANARY = "http://0.0.0.0/"
"""Blocked by every guard; asked for once, to see that the guard is in its place."""


class Img2dataset:
    """Fetches parts with img2dataset; one part at a time in a process. A `contract.FetchPart`.

    Args:
        get: the guard.
        normalise: what img2dataset's resizer is.
        threads: requests under way.
        timeout: seconds of one request, for img2dataset's own call; the guard keeps to its own.

    Raises:
        UsageError: img2dataset can't be imported, or does not call what it is attached by.
    """

    def __init__(self, get: Get, normalise: Normalise, *, threads: int, timeout: float) -> None:
        self._get = get
        self._normalise = normalise
        self._threads = threads
        self._timeout = timeout
        self._module = _imported()
        self._check_guarded()

    def __call__(self, urls: Sequence[str], spool: Spool, scratch: Path) -> list[Outcome]:
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
        with self._attached(outcomes):
            # Not by calling it: that prints a part's failure and goes on.
            downloader.download_shard((0, str(shard)))
        if writer.error is not None:
            raise writer.error
        return [outcome.ended() for outcome in outcomes]

    def _resizer(self, stream: "_Body", _boxes: object = None) -> tuple[Any, ...]:
        """A resizer as img2dataset calls it: (bytes, width, height, original width and height, error)."""
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
    def _attached(self, outcomes: Sequence[Outcome]) -> Iterator[None]:
        """img2dataset's requests go through the guard, and into these outcomes."""
        original, opener_before = self._module.download_image, getattr(urllib.request, "_opener", None)
        opener = _GuardedOpener(self._get)
        self._module.download_image = _with_ledger(original, opener, outcomes)
        urllib.request.install_opener(opener)
        try:
            yield
        finally:
            self._module.download_image = original
            urllib.request.install_opener(opener_before)  # None: urllib makes its own

    def _check_guarded(self) -> None:
        """Asks img2dataset for an address that the guard refuses, and expects to be told so."""
        outcome = Outcome()
        with self._attached([outcome]):
            self._module.download_image_with_retry((0, _CANARY), self._timeout, 0, None, None)
        if outcome.error_class != "blocked_address":
            raise UsageError("this release of img2dataset does not pass its requests to the guard; install 1.47")


class _Body:
    """Received bytes that know their ledger row and their lease, in the place of img2dataset's stream.

    A resizer is given nothing else.
    """

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.lease: Lease | None = None
        self.data = b""

    def seek(self, _position: int) -> None:
        """What img2dataset calls before it hands the stream to the resizer."""

    def close(self) -> None:
        """What it calls at the end."""

    def release(self) -> None:
        """The bytes are decoded."""
        if self.lease:
            self.lease.release()


class _GuardedOpener(urllib.request.OpenerDirector):
    """What `urlopen` calls: the guard, one outcome per thread."""

    def __init__(self, get: Get) -> None:
        super().__init__()
        self._get = get
        self._thread = threading.local()

    @contextlib.contextmanager
    def noting(self, body: "_Body") -> Iterator[None]:
        """Notes this thread's next request in what its body will be."""
        self._thread.body = body
        try:
            yield
        finally:
            del self._thread.body

    def open(self, fullurl: Any, data: Any = None, timeout: float | None = None) -> Any:  # noqa: ARG002
        body: _Body = self._thread.body
        try:
            received = self._get(fullurl.full_url)
        except FetchError as error:
            body.outcome.failed(error)
            raise
        body.outcome.received(received)
        body.lease = received.lease
        return io.BytesIO(received.body)


def _with_ledger(
    download_image: Callable[..., Downloaded], opener: _GuardedOpener, outcomes: Sequence[Outcome]
) -> Callable[..., Downloaded]:
    """img2dataset's `download_image` that also says what it did."""

    def ledger(row: Row, *settings: Any, **more: Any) -> Downloaded:
        key, url = row
        outcome = outcomes[key]
        started = monotonic()
        stream, body = None, _Body(outcome)
        try:
            # urllib has its own ideas of what a URL is: it sees only those that were taken apart already.
            checked = parse(url).url
        except FetchError as error:
            outcome.failed(error)
        else:
            with opener.noting(body):
                _, stream, message = download_image((key, checked), *settings, **more)
            if stream is None and outcome.error_class is None:
                outcome.failed(FetchError("internal", message or "no reason given"))
            if stream is not None and outcome.sha256 is None:
                stream = None
                outcome.failed(FetchError("internal", "img2dataset went around the guard"))
        outcome.milliseconds = round(1000 * (monotonic() - started))
        if stream is None:
            body.release()
            return key, None, outcome.error_class
        body.data = stream.getvalue()
        return key, body, None

    return ledger


class _Writer:
    """A sample writer as img2dataset calls it: into the spool."""

    def __init__(self, outcomes: Sequence[Outcome], spool: Spool) -> None:
        self._outcomes = outcomes
        self._spool = spool
        self.error: OSError | None = None

    def write(self, picture: bytes | None, _key: str, _caption: None, row: dict[str, Any]) -> None:
        """Takes one row; only successes have a picture."""
        if picture is None:
            return
        try:
            self._spool.add(row["row"], picture)
        except OSError as error:
            # img2dataset prints what its writer raises and goes on; a full disk is the whole part's end.
            self.error = error
            raise
        self._outcomes[row["row"]].stored = True

    def close(self) -> None:
        """Nothing: the spool is the part's."""


def _imported() -> Any:
    """`img2dataset.downloader` without the package's own `__init__`, which imports ray, torch and OpenCV.

    That would cost each worker 12 seconds and 750 MB, of which a download needs nothing. The bare package
    stands in only during this import; whoever imports img2dataset afterwards gets the real one.
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
    """Stands in for a module, which is imported when something of it is asked for, if ever.

    img2dataset.logger imports wandb for a monitor that is not run here, and wandb makes two temporary folders as it is
    imported, which a worker that is killed leaves behind.
    """
    stand_in = ModuleType(name)
    vars(stand_in)["__getattr__"] = lambda attribute: getattr(importlib.import_module(name), attribute)
    return stand_in
