"""Lets one driver at a time work on an output: a second one says who runs, and takes the place of a dead one.

A driver creates `drivers/<number>.json` before it works and removes it afterwards; the highest number holds the output.
The file names host and process and has a beat, which the driver renews every `BEAT` seconds. To take the place of a
dead driver is to create the next number, which only one of several can do, where the store has conditional writes
(S3's If-None-Match, hard links of a local file system). A driver that was replaced, as after a long pause of its
machine, finds the higher number at its next beat and stops.

Where the store ignores conditional writes, two drivers that start within one request may both hold the output. That
costs work, not correctness of single files (`curate.store.Store.create`).
"""

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from curate.errors import BrokenResult, InUse
from curate.store import Json, Store, access_errors

FOLDER = "drivers"

BEAT = 10.0
"""Seconds between two signs of life."""

DEAD = 60.0
"""Seconds without a new sign of life after which a driver of another machine counts as dead."""


_JOINED_WITHIN = 5.0
"""Seconds for a beat in progress, when the output is freed: its store may be away."""

_HELD: set[str] = set()
"""The tokens of the outputs that this process holds. A store that was away may still have the file of one it freed."""


@dataclass
class OneDriver:
    """Holds an output for this driver, from `__enter__` to `__exit__`.

    Args:
        store: the output.
        tell: shows the user a line, before a wait for a driver that may be dead.

    Raises:
        InUse: another driver works on the output (at `__enter__`).
        StoreError: the store cannot be read or written.
    """

    store: Store
    tell: Callable[[str], None]
    _token: str = field(default_factory=lambda: secrets.token_hex(8))
    _number: int = 0
    _since: float = 0.0
    _successor: Json | None = None
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Waits until the output is free, at most `DEAD` seconds, and takes it."""
        self._since = time.time()
        with self.store.accessible("written"):
            while not self._number:
                before = _highest(self.store)
                if before and self._is_alive(before):
                    raise InUse(f"{self.store.url} is in use by another curate: {_described(before)}")
                number = int(before["number"]) + 1 if before else 1
                if not self.store.create(_name(number), self._content(number)):
                    continue
                after = _highest(self.store)
                if after and after["number"] > number:
                    # Several have come and gone between the look and the creation.
                    self.store.delete(_name(number))
                    continue
                self._number = number
            _HELD.add(self._token)
            self._remove_below(self._number)
        self._thread = threading.Thread(target=self._beat, name="curate-driver-beat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Frees the output."""
        _HELD.discard(self._token)
        self._ended.set()
        assert self._thread
        self._thread.join(_JOINED_WITHIN)
        with suppress(*access_errors(self.store.url)):
            self.store.delete(_name(self._number))

    def check(self) -> None:
        """Raises InUse where another driver has taken this one's place."""
        if self._successor:
            raise InUse(
                f"{self.store.url}: another curate took over, because no sign of life of this one was seen for "
                f"{DEAD:.0f} s: {_described(self._successor)}"
            )

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            # A store that is away for a moment is not the end of the run: units that need it will say so.
            with suppress(*access_errors(self.store.url), BrokenResult):
                highest = _highest(self.store)
                if highest and highest["number"] > self._number:
                    self._successor = highest
                    return
                self.store.put(_name(self._number), self._content(self._number))

    def _content(self, number: int) -> bytes:
        now = time.time()
        content = {"number": number, "token": self._token, "since": self._since, "beat": now, **_this_process()}
        return (json.dumps(content, sort_keys=True) + "\n").encode()

    def _remove_below(self, number: int) -> None:
        for name in self.store.names(FOLDER):
            if int(name.partition(".")[0]) < number:
                self.store.delete(f"{FOLDER}/{name}")

    def _is_alive(self, other: Json) -> bool:
        """Whether another driver lives: by its process where that can be seen from here, else by a new beat."""
        ours = _this_process()
        if all(other.get(key) == ours[key] for key in ("host", "boot", "pids")):
            is_ours = (other["pid"], other["started"]) == (ours["pid"], ours["started"])
            return other["token"] in _HELD if is_ours else _runs(int(other["pid"]), str(other["started"]))
        wait_until = time.monotonic() + min(DEAD, max(0.0, other["beat"] + DEAD - time.time()))
        if time.monotonic() < wait_until:
            self.tell(f"waiting up to {DEAD:.0f} s for a sign of life of another curate: {_described(other)}")
        while time.monotonic() < wait_until:
            time.sleep(min(1.0, BEAT))
            now = _highest(self.store)
            if now is None or now["number"] != other["number"]:
                return now is not None
            if now["beat"] != other["beat"]:
                return True
        return False


def holder(store: Store) -> str:
    """Returns one line on the driver that holds an output; empty where there is none."""
    found = _highest(store)
    return _described(found) if found else ""


def _highest(store: Store) -> Json | None:
    """The driver that holds the output, if any."""
    while names := store.names(FOLDER):
        # Between the listing and the reading a driver may end, or be replaced by one that was not listed.
        with suppress(FileNotFoundError):
            return store.read_json(f"{FOLDER}/{names[-1]}")
    return None


def _name(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"


def _described(driver: Json) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(driver["since"]))
    last = max(0.0, time.time() - driver["beat"])
    return f"on {driver['host']}, process {driver['pid']}, since {since}, last sign of life {last:.0f} s ago"


def _this_process() -> Json:
    """Returns the facts that tell this process from others: its host, boot, process namespace, number and start."""
    return {
        "host": platform.node(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "pids": _link("/proc/self/ns/pid"),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }


def _runs(pid: int, started: str) -> bool:
    """Whether the process of that number that started then still runs; one that waits to be reaped does not."""
    if started:
        return _stat(pid)[:1] != ["Z"] and _started(pid) == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(pid: int) -> str:
    """The start time of a process, in the kernel's ticks since boot; empty without /proc, or such a process."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat (proc(5)) from the third one on; the second may hold any character."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
