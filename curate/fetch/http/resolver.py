"""Resolves names to addresses: one look-up per name, in a bounded number of threads, with cached answers.

The system's look-up takes no timeout, so look-ups run in threads of their own, and a caller stops waiting at its
deadline. When a name server fails, look-ups must neither pile up nor be repeated for each of thousands of images: all
requests that wait for a name share one look-up, a queued look-up that no request waits for any more is skipped, and
failures are cached, too.
"""

import queue
import socket
import threading
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from time import monotonic

from curate.fetch.contract import FetchError
from curate.fetch.http.addresses import Address
from curate.fetch.http.deadline import Deadline

Lookup = Callable[[str], list[str]]
"""Resolves a name to its addresses as text; raises OSError."""

THREADS = 16
"""Concurrent look-ups of one worker."""

KEPT = 600.0
"""Seconds for which an answer is cached: a worker may run for days, and addresses change."""

KEPT_TRANSIENT = 30.0
"""Seconds for which the answer `try again later` is cached; short, so that a short failure of a name server does not
fail a host's images for ten minutes."""

SIZE = 65536
"""Most names in the cache; the oldest are dropped first."""


class _Answer:
    def __init__(self, wanted_until: float) -> None:
        self.known = threading.Event()
        self.addresses: tuple[Address, ...] = ()
        self.error = ""
        self.good_until = float("inf")
        self.wanted_until = wanted_until


class Resolver:
    """A cache of names in front of a bounded number of look-ups; thread-safe.

    Args:
        lookup: resolves one name; by default `system_lookup`.
    """

    def __init__(self, lookup: Lookup | None = None) -> None:
        self._lookup = lookup or system_lookup
        self._lock = threading.Lock()
        self._answers: dict[str, _Answer] = {}
        self._questions: queue.SimpleQueue[tuple[str, _Answer]] = queue.SimpleQueue()
        self._threads = 0

    def addresses(self, host: str, deadline: Deadline) -> tuple[Address, ...]:
        """Returns the addresses of a host, at least one; IP literals and localhost need no look-up.

        Raises:
            FetchError: class dns: the name has no address, or no answer arrived in time.
        """
        literal = _literal(host)
        if literal is not None:
            return (literal,)
        answer = self._answer(host, deadline)
        if not answer.known.wait(max(0.0, deadline.at - monotonic())):
            raise FetchError("dns", "no answer from the name server in time")
        if not answer.addresses:
            raise FetchError("dns", answer.error)
        return answer.addresses

    def _answer(self, host: str, deadline: Deadline) -> _Answer:
        with self._lock:
            answer = self._answers.get(host)
            if answer is None or answer.good_until < monotonic():
                answer = self._answers[host] = _Answer(deadline.at)
                if len(self._answers) > SIZE:
                    del self._answers[next(iter(self._answers))]
                self._questions.put((host, answer))
                if self._threads < THREADS:
                    # Daemon threads: a look-up that hangs must not keep the process from ending.
                    threading.Thread(target=self._work, name="resolver", daemon=True).start()
                    self._threads += 1
            answer.wanted_until = max(answer.wanted_until, deadline.at)
            return answer

    def _work(self) -> None:
        while True:
            host, answer = self._questions.get()
            with self._lock:
                given_up = answer.wanted_until < monotonic()
                if given_up:  # a later request for this name starts a new look-up
                    answer.error = "no answer from the name server in time"
                    answer.good_until = 0.0
            if not given_up:
                self._ask(host, answer)
            answer.known.set()

    def _ask(self, host: str, answer: _Answer) -> None:
        kept = KEPT
        try:
            texts = self._lookup(host)
            answer.addresses = tuple(dict.fromkeys(ip_address(text.partition("%")[0]) for text in texts))
            answer.error = "the name has no address"
        except socket.gaierror as error:
            answer.error = error.strerror or "the name is not known"
            kept = KEPT_TRANSIENT if error.errno == socket.EAI_AGAIN else KEPT
        except (OSError, UnicodeError) as error:
            answer.error = str(error)
        answer.good_until = monotonic() + kept


def system_lookup(host: str) -> list[str]:
    """Resolves a name as the system does, hosts file included."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


def _literal(host: str) -> Address | None:
    if host == "localhost" or host.endswith(".localhost"):
        return IPv4Address("127.0.0.1")  # RFC 6761: never ask a server for it
    if ":" in host:
        return IPv6Address(host)
    try:
        # Parsed as the system does: also octal, hexadecimal, and fewer than four numbers.
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None
