"""Reads the pictures of a part from its tar, and compares each of them with its checksum in the part's table."""

import contextlib
import tarfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.schema import CHECKSUM, FETCHED
from curate.store import FileInfo, Folder

_TAR, _TABLE = "images.tar", "images.parquet"

COLUMNS = ("status", "file", CHECKSUM)
"""The columns of a part's images that `read_all` needs."""


def fetched_rows(images: pa.Table) -> pa.Array:
    """Returns the rows of a part's images table that have a member in its tar."""
    return pc.indices_nonzero(pc.equal(images["status"], FETCHED).fill_null(fill_value=False))


def read_all(fetch: Folder, part: int, images: pa.Table) -> Iterator[tuple[int, bytes]]:
    """Reads a part's tar from start to end.

    Args:
        fetch: the folder of the fetch pass.
        part: number of the part.
        images: its table of images, with `COLUMNS`.

    Yields:
        The row in `images` and the member's bytes, for every fetched image in order.

    Raises:
        Damaged: a member is missing, repeated, out of order, truncated, not in the table, or differs from its checksum.
    """
    rows = fetched_rows(images)
    expected = iter(_expected(images.take(rows)).items())
    numbers = iter(rows.to_pylist())
    with _damage(fetch, part), fetch.opened(_TAR, part) as opened, tarfile.open(fileobj=opened, mode="r|") as tar:
        for member in tar:
            file, checksum = next(expected, (None, None))
            if member.name != file:
                raise tarfile.TarError(f"it holds {member.name!r} where {file!r} should be")
            yield next(numbers), _checked(file, _content(tar, member), checksum)
        if (lacking := next(expected, None)) is not None:
            raise tarfile.TarError(f"it ends before {lacking[0]!r}")


def read_some(fetch: Folder, part: int, files: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Reads the tar of a part as far as the last of some pictures.

    Args:
        fetch: the folder of the fetch pass.
        part: number of the part.
        files: members of the tar.

    Yields:
        Each member's name and bytes, in the tar's order.

    Raises:
        Damaged: a member is missing, truncated or differs from its checksum.
    """
    left = set(files)
    if not left:
        return
    checksums = _expected(fetch.table(_TABLE, part, COLUMNS))
    with _damage(fetch, part), fetch.opened(_TAR, part) as opened, tarfile.open(fileobj=opened, mode="r:") as tar:
        for member in tar:
            if member.name in left:
                left.remove(member.name)
                yield member.name, _checked(member.name, _content(tar, member), checksums.get(member.name))
            if not left:
                return
        raise tarfile.TarError(f"it lacks {min(left)!r}")


class Images:
    """The pictures of one part by member name, in any order; each reading is a range of the tar.

    Args:
        fetch: the folder of the fetch pass.
        part: number of the part.
        path: the part's tar, a local file.
    """

    def __init__(self, fetch: Folder, part: int, path: Path) -> None:
        self._fetch = fetch
        self._part = part
        self._checksums = _expected(fetch.table(_TABLE, part, COLUMNS))
        with _damage(fetch, part), tarfile.open(path, mode="r:") as tar:
            self._places = {member.name: (member.offset_data, member.size) for member in tar}
        self._file: IO[bytes] = path.open("rb")

    def read(self, member: str) -> bytes:
        """Returns the bytes of a picture. Raises Damaged where the tar lacks it, or it differs from its checksum."""
        with _damage(self._fetch, self._part):
            if member not in self._places:
                raise tarfile.TarError(f"it lacks {member!r}")
            offset, size = self._places[member]
            self._file.seek(offset)
            return _checked(member, self._file.read(size), self._checksums.get(member))

    def close(self) -> None:
        """Closes the tar."""
        self._file.close()


def salvage(fetch: Folder, tar: FileInfo, images: pa.Table) -> Iterator[tuple[int, bytes]]:
    """Reads those pictures of a damaged tar that agree with their checksums.

    Args:
        fetch: the folder of the fetch pass.
        tar: the tar's entry in its marker.
        images: the part's table of images, with `COLUMNS`.

    Yields:
        The row in `images` and the bytes of each picture.
    """
    row_of = {file: row for row, file in enumerate(images["file"].to_pylist()) if file is not None}
    checksums = _expected(images)
    # A damaged header is skipped like a block of zeros, and costs one picture. Only the end of the file, or its
    # absence, ends the reading.
    with (
        contextlib.suppress(tarfile.TarError, FileNotFoundError),
        fetch.store.as_local(f"{fetch.path}/{tar.name}") as path,
        tarfile.open(path, mode="r:", ignore_zeros=True) as opened,
    ):
        for member in opened:
            if (row := row_of.get(member.name)) is not None and member.isfile():
                data = _content(opened, member)
                if zlib.crc32(data) == checksums[member.name]:
                    del row_of[member.name]
                    yield row, data


@contextlib.contextmanager
def images_of(fetch: Folder, part: int) -> Iterator[Images]:
    """Opens the pictures of a part; a remote tar is copied to the local disk first. Raises Damaged as `Images`."""
    with fetch.as_local(_TAR, part) as path, contextlib.closing(Images(fetch, part, path)) as images:
        yield images


def _expected(images: pa.Table) -> dict[str, int | None]:
    """The checksum of each picture by member name, in the table's order."""
    files = images["file"].to_pylist()
    # Tables of versions before 0.1.0 have no checksums.
    known = images[CHECKSUM].to_pylist() if CHECKSUM in images.column_names else [None] * len(files)
    return {file: checksum for file, checksum in zip(files, known, strict=True) if file is not None}


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content: Any = tar.extractfile(member)
    if content is None:
        raise tarfile.TarError(f"{member.name!r} is not a file")
    return bytes(content.read())


def _checked(file: str, data: bytes, checksum: int | None) -> bytes:
    if checksum is not None and zlib.crc32(data) != checksum:
        raise tarfile.TarError(f"the bytes of {file} changed after they were written")
    return data


@contextlib.contextmanager
def _damage(fetch: Folder, part: int) -> Iterator[None]:
    """Turns the faults of a tar into Damaged."""
    try:
        yield
    except tarfile.TarError as error:
        raise fetch.damaged(_TAR, part, str(error)) from error
