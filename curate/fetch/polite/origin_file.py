"""Files with rules for a whole origin, such as robots.txt: requested once per origin, cached."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

from curate.fetch.contract import FetchError
from curate.fetch.http.deadline import Deadline
from curate.fetch.http.urls import Target

MAX_BYTES = 500 << 10
"""Most bytes of such a file that are read (RFC 9309, 2.5)."""

KEPT = 3600.0
KEPT_FAILURE = 60.0
"""Seconds for which a file, or the failure of its request, is cached."""

SIZE = 4096
"""Most origins in the cache; the oldest are dropped first."""

Ask = Callable[[Target], str]
"""Fetches such a file: returns its text, '' where there is none; raises FetchError."""

Rules = TypeVar("Rules")


class _Entry(Generic[Rules]):
    def __init__(self) -> None:
        self.known = threading.Event()
        self.rules: Rules | None = None
        self.error: FetchError | None = FetchError("internal", "it was not read")
        self.good_until = float("inf")


class OriginFile(Generic[Rules]):
    """The rules of many origins; thread-safe.

    Args:
        path: of the file.
        read: parses its text.
    """

    def __init__(self, path: str, read: Callable[[str], Rules]) -> None:
        self._path = path
        self._name = path.rpartition("/")[2]
        self._read = read
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry[Rules]] = OrderedDict()

    def of(self, target: Target, ask: Ask, deadline: Deadline) -> Rules:
        """Returns the rules of the origin of a URL.

        Args:
            target: the URL to be fetched.
            ask: fetches the origin's file; of concurrent calls for one origin, one calls it.
            deadline: bounds the wait of the other calls.

        Raises:
            FetchError: the error of the request where the file could not be fetched; class timeout where another call
                did not fetch it in time.
        """
        origin = Target(target.scheme, target.host, target.port, self._path)
        entry, ours = self._find(origin.url)
        if ours:
            self._learn(entry, origin, ask)
        elif not entry.known.wait(max(0.0, deadline.at - monotonic())):
            raise FetchError("timeout", f"{self._name} did not arrive in time")
        if entry.error is not None:
            raise self.named(entry.error) from entry.error
        assert entry.rules is not None
        return entry.rules

    def named(self, error: FetchError) -> FetchError:
        """Returns an error whose message begins with the file's name."""
        return FetchError(error.error_class, f"{self._name}: {error}", http_status=error.http_status)

    def _find(self, origin: str) -> tuple[_Entry[Rules], bool]:
        """Returns an origin's rules, and whether the caller has to fetch them."""
        with self._lock:
            entry = self._entries.get(origin)
            if entry is not None and entry.good_until > monotonic():
                return entry, False
            entry = self._entries[origin] = _Entry()
            if len(self._entries) > SIZE:
                self._entries.popitem(last=False)
            return entry, True

    def _learn(self, entry: _Entry[Rules], origin: Target, ask: Ask) -> None:
        kept = KEPT
        try:
            entry.rules = self._read(ask(origin)[:MAX_BYTES])
            entry.error = None
        except FetchError as error:
            entry.error = error
            kept = KEPT_FAILURE
        finally:
            entry.good_until = monotonic() + kept
            entry.known.set()
