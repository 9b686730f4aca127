"""Reads the samples of a WebDataset tar in one pass over its members, seeking over the bytes of images.

webdataset's rule: the members of a sample follow each other and share a key, the name up to the first dot of its last
word. Links, folders, hidden files and members without a suffix do not belong to a sample. Nothing is written to disk
under a member's name.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from curate.errors import SourceError, counted

IMAGES = frozenset(
    ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "avif", "tif", "tiff", "heic", "heif", "jxl"]
)
"""Suffixes, in small letters, of members that count as a sample's image; fetch finds out whether it can be read."""

MAX_TEXT = 4 << 20
"""Bytes of a caption or a json; a longer one counts as unreadable."""

_MAX_HEADER = 64 << 20
_BLOCK = tarfile.BLOCKSIZE
_META = re.compile(r"__[^/]*__/")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
# The exceptions that tarfile raises on invalid headers, according to its source.
_BROKEN = (tarfile.TarError, ValueError, LookupError, OverflowError, RecursionError, EOFError)


@dataclass
class Sample:
    """The members of a tar, or the files of a folder, under one key.

    Args:
        key: the members' common name.
        images: name, offset of the first byte and size of each image.
        texts: the contents of its `.txt` members.
        about: the contents of its `.json` members.
        members: the suffixes of all members.
        unreadable: the number of texts and jsons that could not be read, and count as missing.
    """

    key: str
    images: list[tuple[str, int, int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    about: list[dict[str, Any]] = field(default_factory=list)
    members: list[str] = field(default_factory=list)
    unreadable: int = 0

    def fault(self) -> str | None:
        """The reason why it is unclear which image and caption make the pair: `<error class>: <words>`; else None."""
        if not self.images:
            there = ", ".join(self.members[:8]) or "nothing"
            return f"no_image: no image lies under its key, only {there}"
        for suffix in self.members:
            if self.members.count(suffix) > 1:
                return f"ambiguous: {self.members.count(suffix)} members of the sample end in .{suffix}"
        if len(self.images) > 1:
            return f"ambiguous: the sample has {len(self.images)} images"
        return None


def samples(opened: IO[bytes], path: str) -> Iterator[Sample]:
    """The samples of a tar in its order.

    Args:
        opened: the tar, seekable.
        path: its name in errors.

    Raises:
        SourceError: it is compressed, not a tar, or broken.
        OSError: the store cannot read it.
    """
    current: Sample | None = None
    for member in _members(opened, path):
        found = split(member.name)
        if found is None or _META.match(member.name):
            continue
        key, suffix = found
        if current is None or current.key != key:
            if current is not None:
                yield current
            current = Sample(key)
        current.members.append(suffix)
        if suffix in IMAGES:
            current.images.append((member.name, member.offset_data, member.size))
        elif suffix in ("txt", "json"):
            data = None
            if member.size <= MAX_TEXT:
                opened.seek(member.offset_data)
                data = opened.read(member.size)
            take(current, suffix, data)
    if current is not None:
        yield current


def take(sample: Sample, suffix: str, data: bytes | None) -> None:
    """Adds a caption or a json to a sample, or counts it as unreadable; `data` is None where it is too long."""
    if data is None:
        sample.unreadable += 1
    elif suffix == "txt":
        sample.texts.append(data.decode("utf-8", "replace"))
    else:
        try:
            loaded = json.loads(data)
        except (ValueError, RecursionError):
            loaded = None
        if isinstance(loaded, dict):
            sample.about.append(loaded)
        else:
            sample.unreadable += 1


def split(name: str) -> tuple[str, str] | None:
    """A member's key and suffix (in small letters); None where it does not belong to a sample."""
    folder, slash, last = name.rpartition("/")
    stem, dot, suffix = last.partition(".")
    return (folder + slash + stem, suffix.lower()) if stem and dot else None


def _members(opened: IO[bytes], path: str) -> Iterator[tarfile.TarInfo]:
    """The regular members of a tar, up to its end mark."""
    head = opened.read(6)
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise SourceError(
                f"{path} is compressed ({name}), and images are read at offsets of the tar: unpack it first"
            )
    opened.seek(0)
    count, at = 0, 0
    try:
        # A name that is not in UTF-8 keeps its bytes as surrogates.
        headers: Any = _Headers(opened)
        with tarfile.open(fileobj=headers, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # it would keep them all
                count += 1
                if member.size < 0 or tar.offset <= at:
                    raise tarfile.ReadError(f"a member of {member.size} bytes")
                at = tar.offset
                if member.isreg() and not member.issparse():
                    yield member
            at = tar.offset
    except _BROKEN as error:
        if not count:
            raise SourceError(f"{path} is not a tar ({_line(error)}); leave it out") from error
        raise SourceError(_torn(path, _line(error), count)) from error
    # tarfile takes an invalid header for the end of the tar.
    opened.seek(at)
    end = opened.read(_BLOCK)
    if end != bytes(_BLOCK):
        raise SourceError(_torn(path, "it has no end mark" if not end else f"no valid header at byte {at}", count))


def _torn(path: str, said: str, count: int) -> str:
    return f"{path} is broken: {said}, after {counted(count, 'member')}; pack it again or leave it out"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class _Headers(io.RawIOBase):
    """A file for tarfile that limits the size of a read, so that no header can make tarfile fill the memory."""

    def __init__(self, opened: IO[bytes]) -> None:
        self._opened = opened

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._opened.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._opened.seek(offset, whence)

    def tell(self) -> int:
        return self._opened.tell()
