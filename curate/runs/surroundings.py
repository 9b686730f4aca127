"""Classifies exceptions: tells faults of disks, stores and credentials from faults of a part or of the recipe.

Such a fault has its cause outside the unit that met it, and ends without any change of the recipe. So it does not
count as a failed start (`curate.runs.units`); the run waits for its end (`curate.runs.patience`), then stops.

Classes of libraries are named, not imported: a process that has not loaded a library does not meet its exceptions.
"""

import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from curate.credentials import redacted

Kind = Literal["disk", "away", "refused"]

ERRNOS: dict[int, Kind] = {
    errno.ENOSPC: "disk",
    errno.EDQUOT: "disk",
    errno.EROFS: "disk",
    errno.EIO: "away",
    errno.ESTALE: "away",
    errno.ENOTCONN: "away",
    errno.ENODEV: "away",
    errno.ETIMEDOUT: "away",
    errno.ECONNREFUSED: "away",
    errno.EHOSTDOWN: "away",
    errno.EHOSTUNREACH: "away",
    errno.ENETDOWN: "away",
    errno.ENETUNREACH: "away",
}
"""The kind of an OSError, by its errno. Absent on purpose: EPIPE and ECONNRESET, which the crash of a decoder process
raises, and EACCES, as a part may contain a single file that cannot be read."""

CLASSES: dict[str, Kind] = {
    "botocore.exceptions.HTTPClientError": "away",
    "botocore.exceptions.ConnectionError": "away",
    "botocore.exceptions.IncompleteReadError": "away",
    "botocore.parsers.ResponseParserError": "away",
    "aiohttp.client_exceptions.ClientError": "away",
    "botocore.exceptions.NoCredentialsError": "refused",
    "botocore.exceptions.PartialCredentialsError": "refused",
    "botocore.exceptions.CredentialRetrievalError": "refused",
    "botocore.exceptions.TokenRetrievalError": "refused",
    "botocore.exceptions.UnauthorizedSSOTokenError": "refused",
}
"""The kind of an exception of a library, by the qualified name of its class or a base class."""

CODES: dict[str, Kind] = {
    "SlowDown": "away",
    "RequestTimeout": "away",
    "OperationAborted": "away",
    "ConditionalRequestConflict": "away",
    "QuotaExceeded": "disk",
    "InsufficientStorage": "disk",
    "XMinioStorageFull": "disk",
    "ExpiredToken": "refused",
    "InvalidToken": "refused",
    "TokenRefreshRequired": "refused",
    "RequestTimeTooSkewed": "refused",
}
"""The kind of an S3 server's answer, by its code."""

STATUSES: dict[int, Kind] = {401: "refused", 403: "refused", 408: "away", 409: "away", 429: "away", 507: "disk"}
"""The kind of an S3 server's answer with any other code, by its HTTP status; from 500 on, it is `away`."""

_IN_TEXT = ("_duckdb.IOException", "duckdb.IOException", "_duckdb.OutOfMemoryException", "pyarrow.lib.ArrowException")
"""Exceptions that name an errno in their texts only."""

_WEB_ANSWER = "aiohttp.client_exceptions.ClientResponseError"

_FULL_TEXTS = (
    os.strerror(errno.ENOSPC),
    os.strerror(errno.EDQUOT),
    os.strerror(errno.EROFS),
    "max_temp_directory_size",
)


@dataclass(frozen=True)
class Fault:
    """A fault of the surroundings: `disk` (full, read-only), `away` (no answer, errors) or `refused` (credentials)."""

    kind: Kind
    text: str


def fault(error: BaseException) -> Fault | None:
    """Returns the fault of the surroundings that an exception, or one that it was raised from, reports; else None."""
    for cause in _chain(error):
        kind = _kind(cause)
        if kind:
            return Fault(kind, f"{type(cause).__name__}: {' '.join(redacted(str(cause)).split())[:300]}")
    return None


def io_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """Returns the base classes of what a store may raise, for `except`: OSError, those of loaded S3 clients, others."""
    found: list[type[Exception]] = [OSError, *others]
    for module, name in (("botocore.exceptions", "BotoCoreError"), ("aiohttp.client_exceptions", "ClientError")):
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _kind(error: BaseException) -> Kind | None:
    # s3fs turns an answer into an OSError with an errno of its choice; the answer itself says more.
    answer = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if isinstance(answer, dict) and "Error" in answer:
        status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        by_status = STATUSES.get(status, "away" if status >= 500 else None)
        return CODES.get(str(answer["Error"].get("Code")), by_status)
    names = [f"{base.__module__}.{base.__qualname__}" for base in type(error).__mro__]
    status = getattr(error, "status", 0) if _WEB_ANSWER in names else 0
    if 400 <= status < 500 and STATUSES.get(status) != "away":
        # A web server's refusal (no such file, a signature that has expired) does not end by itself.
        return None
    for name in names:
        if name in CLASSES:
            return CLASSES[name]
    if isinstance(error, OSError) and error.errno is not None:
        return ERRNOS.get(error.errno)
    told = isinstance(error, OSError) or not set(names).isdisjoint(_IN_TEXT)
    return "disk" if told and any(text in str(error) for text in _FULL_TEXTS) else None
