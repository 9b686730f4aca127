"""Scratch folders on local disk, and the removal of those that killed processes left behind.

A worker that is killed (out of memory, preempted, set aside) cannot remove its folder, and a part's images are
hundreds of megabytes: on a machine that lives long, the disk would fill up.
"""

import contextlib
import fcntl
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PREFIX = f"curate-{platform.node()}-"
"""Where TMPDIR is shared, each machine minds its own: not every such file system tells one of another's locks."""

_LOCK = "lock"
_YOUNG = 600
"""Seconds in which a folder is left alone whatever its lock says: its owner may be about to take it."""


@contextlib.contextmanager
def scratch(room: str) -> Iterator[Path]:
    """An empty folder for the time being, in the system's folder for temporary files (TMPDIR).

    Its owner holds a lock in it, which the system gives back however the owner ends; folders whose lock is free are
    left behind, and removed here.
    """
    _sweep(Path(tempfile.gettempdir()))
    with (
        tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{room}-") as folder,
        (Path(folder) / _LOCK).open("wb") as lock,
    ):
        # Where a file system has no locks, nobody gets one, so that nothing is removed.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        own = Path(folder) / "own"
        own.mkdir()
        yield own


def _sweep(folder: Path) -> None:
    """Removes what this user's processes left; what another process removes first, or may not be touched, stays."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX):
                with contextlib.suppress(OSError):
                    _remove_if_left(entry)


def _remove_if_left(entry: os.DirEntry[str]) -> None:
    if not entry.is_dir(follow_symlinks=False) or entry.stat(follow_symlinks=False).st_uid != os.geteuid():
        return
    with (Path(entry.path) / _LOCK).open("rb") as lock:
        if time.time() - os.fstat(lock.fileno()).st_mtime > _YOUNG:
            # BlockingIOError, which is an OSError, where its owner lives.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry.path)
