"""The interfaces between the modules of fetch, and the values that they exchange.

`Normalise` turns bytes into a stored picture, and `FetchPart` downloads and normalises a whole part (implemented with
img2dataset's Downloader). Each raises or records a `FetchError` where an image fails. Another downloader implements
`FetchPart`.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from curate.fetch.http.limits import Lease
from curate.fetch.pictures.picture import Picture
from curate.fetch.pictures.sorted_tar import Spool
from curate.schema import ERROR_CLASSES

MESSAGE_LENGTH = 200
"""Characters of an error message that are kept: most messages contain text from a server."""


class FetchError(Exception):
    """Why one image was not fetched: a class of `schema.ERROR_CLASSES` and a message of one line.

    Args:
        error_class: the class, which becomes the drop reason `fetch:<class>`.
        message: the message; cut, and freed of line breaks and control characters here, as it may hold a server's text.
        http_status: status of the last answer, where there was one.
        host: the last host that a request was sent to, or would have been sent to.
        retry_after: seconds of the host's Retry-After header.
    """

    def __init__(
        self,
        error_class: str,
        message: str,
        *,
        http_status: int | None = None,
        host: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        assert error_class in ERROR_CLASSES, error_class
        super().__init__(one_line(message))
        self.error_class = error_class
        self.http_status = http_status
        self.host = host
        self.retry_after = retry_after


@dataclass(frozen=True)
class Received:
    """A complete body with the status and host that it came from; its memory lease is released once it is decoded.

    A body that was not downloaded has no status and no host.
    """

    body: bytes
    http_status: int | None = None
    host: str | None = None
    lease: Lease | None = None
    sha256: str = field(init=False)
    """The digest of the body, in hex digits."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha256", hashlib.sha256(self.body).hexdigest())


@dataclass
class Outcome:
    """The result of fetching one image: its row of `schema.IMAGES` without id and file."""

    stored: bool = False
    error_class: str | None = None
    error: str | None = None
    http_status: int | None = None
    host: str | None = None
    bytes: int | None = None
    milliseconds: int | None = None
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    sha256: str | None = None

    def failed(self, error: FetchError) -> None:
        """Records why the image failed; a status and a host that are known stay, where the error has none."""
        self.error_class = error.error_class
        self.error = str(error)
        self.http_status = self.http_status if error.http_status is None else error.http_status
        self.host = self.host if error.host is None else error.host

    def received(self, received: Received) -> None:
        """Records the received body: status, host, bytes and digest."""
        self.http_status = received.http_status
        self.host = received.host
        self.bytes = len(received.body)
        self.sha256 = received.sha256

    def normalised(self, picture: Picture) -> None:
        """Records the picture that will be stored."""
        self.width = picture.width
        self.height = picture.height
        self.original_width = picture.original_width
        self.original_height = picture.original_height

    def ended(self) -> "Outcome":
        """Returns itself; an image with neither a picture nor an error becomes an error of class `internal`."""
        if not self.stored and self.error_class is None:
            self.failed(FetchError("internal", "lost inside the downloader; the worker's log has the traceback"))
        return self


Check = Callable[[int, bytes, Outcome], None]
"""Checks the body of the URL at a position; raises FetchError where it is not stored, and may change the outcome."""

Normalise = Callable[[bytes], Picture]
"""Bytes to the stored picture; raises FetchError of class too_large, not_an_image, undecodable or internal."""


class FetchPart(Protocol):
    """Fetches a part."""

    def __call__(self, urls: Sequence[str], spool: Spool, scratch: Path, check: "Check | None" = None) -> list[Outcome]:
        """Fetches every URL once.

        Args:
            urls: what to fetch.
            spool: receives each stored picture under the position of its URL.
            scratch: a local folder for its own files.
            check: called with each body before it is decoded.

        Returns:
            One finished outcome for each URL, in the order of `urls`.
        """


def one_line(text: str) -> str:
    """Returns a server's text in a form safe for a table and a terminal: printable, one line, of bounded length."""
    words = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * MESSAGE_LENGTH]).split()
    line = " ".join(words)
    return line if len(line) <= MESSAGE_LENGTH else line[: MESSAGE_LENGTH - 1] + "…"
