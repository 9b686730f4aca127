"""The stored images of one part, read from its tar by member name."""

import tarfile
from pathlib import Path
from types import TracebackType
from typing import Self

from curate.errors import BrokenResult


class Images:
    """The images of one part, read from its tar by member name; reads the tar's headers and the requested members.

    Args:
        path: the tar, a local file without compression.
        name: the tar's name in errors.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._name = name
        self._file = path.open("rb")
        with tarfile.open(fileobj=self._file, mode="r:") as tar:
            self._places = {member.name: (member.offset_data, member.size) for member in tar}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, member: str) -> bytes:
        """Returns the bytes of an image. Raises BrokenResult where the tar does not have it."""
        if member not in self._places:
            raise BrokenResult(f"{self._name} has no member {member}")
        offset, size = self._places[member]
        self._file.seek(offset)
        return self._file.read(size)
