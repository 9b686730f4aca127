"""Scratch folders on local disk, and the removal of those that killed processes left behind.

A worker that is killed (out of memory, preempted, set aside) cannot remove its folder, and a part's images take
hundreds of megabytes. Without the removal, the disk of a long-running machine would fill up.
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
"""Includes the host's name: where machines share TMPDIR, each removes its own folders only, because not every shared
file system shows one machine the locks of another."""

_LOCK = "lock"
_YOUNG = 600
"""Seconds for which a new folder is not removed even if its lock is free: its owner may be about to take the lock."""


@contextlib.contextmanager
def scratch(room: str) -> Iterator[Path]:
    """Creates an empty folder in the system's folder for temporary files (TMPDIR); removed at the end of the block.

    Its owner holds a lock in it, which the system releases however the owner ends. A folder whose lock is free was left
    behind by a process that ended; each call removes such folders first.
    """
    _sweep(Path(tempfile.gettempdir()))
    with (
        tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{room}-") as folder,
        (Path(folder) / _LOCK).open("wb") as lock,
    ):
        # On a file system without locks, no lock can be taken, so nothing is removed.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        own = Path(folder) / "own"
        own.mkdir()
        yield own


def _sweep(folder: Path) -> None:
    """Removes the folders that this user's processes left; skips those that cannot be removed or are gone already."""
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
            # Raises BlockingIOError, which is an OSError, while the owner is alive.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry.path)
