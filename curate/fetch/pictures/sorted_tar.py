"""Collects pictures in a scratch file in the order of arrival, then writes them as a tar in the order of their ids.

Ten thousand pictures take about a gigabyte, so they are kept on local disk; memory holds their positions only.
"""

import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self


class Spool:
    """The pictures of one part, in a scratch file.

    Args:
        path: the scratch file; the caller removes it with its folder.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b")
        self._at: dict[int, tuple[int, int, int]] = {}
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, position: int, picture: bytes) -> None:
        """Adds the picture of one image; `position` is the image's position in the part."""
        self._file.write(picture)
        self._at[position] = (self._end, len(picture), zlib.crc32(picture))
        self._end += len(picture)

    def move(self, position: int, to: int) -> None:
        """Gives a picture another position."""
        self._at[to] = self._at.pop(position)

    def checksum(self, position: int) -> int:
        """The CRC-32 of a picture's bytes."""
        return self._at[position][2]

    def write_tar(self, path: Path, members: Iterable[tuple[str, int]]) -> None:
        """Writes the pictures as a tar whose bytes depend on names and pictures alone.

        Args:
            path: the tar to write.
            members: name and position of each picture, in the tar's order.
        """
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, position in members:
                start, size, _ = self._at[position]
                member = tarfile.TarInfo(name)  # mtime 0, mode 644, owner 0
                member.size = size
                self._file.seek(start)
                tar.addfile(member, self._file)
