"""Paths and URLs: spelt as the user would write them, and normalised for comparison."""

import os
from typing import Any

from curate.store import absolute


def spelt(fs: Any, asked: str, found: str) -> str:
    """A found name as the user would have written it: relative where `asked` is relative, with its protocol."""
    if "://" in asked:
        return str(fs.unstrip_protocol(found))
    return found if os.path.isabs(asked) else os.path.relpath(found)  # noqa: PTH117


def plain_path(path: str) -> str:
    """The normal form of a path: absolute where it is local, without `file://` and without a slash at the end."""
    return absolute(path.removeprefix("file://").removeprefix("local://")).rstrip("/")


def last_word(path: str) -> str:
    """A path's last word: the name of a file or of a folder."""
    return path.rstrip("/").rpartition("/")[2]
