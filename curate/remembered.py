"""Keeps with a run the results of checks of files outside it, for the run's next command.

Reading a model's weights, hashing a list and looking at its columns take seconds to minutes; a check that the
file has not changed since takes a `stat`, or one request. `remembered.json` in the run's folder holds each finding with
stamps of the files that it was read from; if a stamp has changed, the finding is made again. The file is not needed:
without it, a command only takes longer.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from curate import __version__
from curate.errors import BrokenResult
from curate.store import Json, Store, access_errors

NAME = "remembered.json"

_SETTLED = 2.0
"""Seconds since the last change after which a local file's time tells its next change from it."""

Finding = Callable[[], tuple[Any, Iterable[str]]]
"""Finds something out: returns it, JSON-able, and the paths or URLs of the files and folders that it was read from."""


@dataclass
class Remembered:
    """Findings of earlier commands of a run.

    Args:
        endpoint: an S3 server other than AWS, on which remote files lie.
        before: what earlier commands remembered; only what this command asks for again is kept.
    """

    endpoint: str | None = None
    before: Mapping[str, Json] = field(default_factory=dict)
    _used: dict[str, Json] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store) -> "Remembered":
        """The findings that are kept in a run's folder; none where there is no such file, or an unreadable one."""
        try:
            kept = store.read_json(NAME)
        except (FileNotFoundError, BrokenResult):
            kept = {}
        findings = kept.get("findings") if kept.get("curate") == __version__ else None
        return cls(store.endpoint, findings if isinstance(findings, dict) else {})

    def get(self, kind: str, request: Any, find: Finding) -> Any:
        """Returns what an earlier command found out, or finds it out now.

        Args:
            kind: what it is, for readers of the file.
            request: what the finding depends on besides the files' contents; JSON-able.
            find: called where nothing is remembered, or a file has changed since; what it raises is not remembered.
        """
        text = json.dumps([kind, request], sort_keys=True)
        name = f"{kind}:{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
        entry = self.before.get(name)
        if entry is None or any(self._stamp(path) != stamp for path, stamp in entry["files"].items()):
            found, files = find()
            stamps = {path: self._stamp(path) for path in files}
            if not all(stamps.values()):
                return found
            entry = {"found": found, "files": stamps}
        self._used[name] = entry
        return entry["found"]

    def save(self, store: Store) -> None:
        """Stores what this command asked for, where that differs from what is stored."""
        if self._used != self.before:
            content = {"curate": __version__, "findings": self._used}
            store.put_json(NAME, content)

    def _stamp(self, path: str) -> str:
        """Returns text that changes with a file, or with a folder's names; empty where a next change might not show."""
        place, is_http = Store(path, self.endpoint), path.startswith(("http://", "https://"))
        try:
            if root := place.local_root:
                status = root.stat()
                if root.is_dir():
                    return _digest(sorted(entry.name for entry in root.iterdir()))
                is_settled = time.time() - status.st_mtime > _SETTLED
                return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}" if is_settled else ""
            if place.exists(""):
                return _version(place.fs.info(path)) if is_http else str(place.fs.ukey(path))
            return _digest(place.names(""))
        except access_errors(path):
            return ""


def _version(info: Json) -> str:
    """Returns a web server's version of a file; empty where it states none (fsspec's `ukey` has the URL alone)."""
    stated = [str(info[name]) for name in ("ETag", "Last-Modified") if info.get(name)]
    return ":".join([str(info.get("size")), *stated]) if stated else ""


def _digest(names: list[str]) -> str:
    return hashlib.blake2b("\0".join(names).encode(errors="surrogateescape"), digest_size=16).hexdigest()
