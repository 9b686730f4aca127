"""Decides whether a failed request is retried, and after which pause."""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from curate.fetch.contract import FetchError

FIRST_PAUSE = 0.5
"""Seconds before the first retry, on average; doubled for each further one."""

_CLASSES = frozenset({"refused", "connection"})
_STATUS = frozenset({429, 500, 502, 503, 504})


def pause(error: FetchError, tries: int) -> float | None:
    """Returns the seconds to wait before the next try, or None where a retry would most likely fail the same way.

    Args:
        error: the error of the last try.
        tries: the number of tries so far.
    """
    if error.error_class not in _CLASSES and error.http_status not in _STATUS:
        return None
    # Random, so that requests that failed together are not all repeated at the same moment.
    spread: float = FIRST_PAUSE * 2.0 ** (tries - 1) * random.uniform(0.5, 1.5)
    return spread if error.retry_after is None else max(spread, error.retry_after)


def retry_after(value: str | None) -> float | None:
    """Returns the seconds that a Retry-After header (a number or a date) asks for, or None where it is not valid."""
    if value is None:
        return None
    value = value.strip()
    if value.isdecimal() and value.isascii():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
