"""Paths and URLs: as the user would write them, and in the one form by which they are compared."""

import os
from typing import Any

from curate.store import absolute


def spelt(fs: Any, asked: str, found: str) -> str:
    """A found name as the user would have written it: relative where the path was, with its protocol."""
    if "://" in asked:
        return str(fs.unstrip_protocol(found))
    return found if os.path.isabs(asked) else os.path.relpath(found)  # noqa: PTH117


def plain_path(path: str) -> str:
    """The one form of a path: local ones absolute, `file://` left out, no slash at the end."""
    return absolute(path.removeprefix("file://").removeprefix("local://")).rstrip("/")


def last_word(path: str) -> str:
    """A path's last word: the name of a file or of a folder."""
    return path.rstrip("/").rpartition("/")[2]
