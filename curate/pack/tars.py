"""Tars in and out: a part's images by name, and a shard's samples in an order and form that never vary."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from curate.errors import BrokenResult
from curate.pack.plain import plain_values

_FIRST = (
    "uid",
    "key",
    "url",
    "caption",
    "width",
    "height",
    "original_width",
    "original_height",
    "sha256",
)


class Images:
    """The images of one part, read from its tar by member name; only headers and what is asked for are read.

    Args:
        path: the tar, a local file without compression.
        name: what to call it in errors.
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
        """The bytes of an image. Raises BrokenResult when the tar lacks it."""
        if member not in self._places:
            raise BrokenResult(f"{self._name} has no member {member}")
        offset, size = self._places[member]
        self._file.seek(offset)
        return self._file.read(size)


class Shard:
    """A WebDataset shard being written: per sample its image, json and txt, by extension.

    The members are plain USTAR with time 0, owner 0 and mode 644 (tarfile's own defaults), so that every
    reader of tars reads them and equal samples make equal bytes.
    """

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  (closed by __exit__)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()

    def add(self, table: pa.Table, files: Sequence[str], images: Images) -> None:
        """Appends the rows of a shard's table as samples.

        Args:
            table: rows as `curate.pack.rows.described` makes them.
            files: for each row, the image's member name.
            images: the tar that holds them.
        """
        for content, file in zip(_contents(table), files, strict=True):
            members = {
                file.rpartition(".")[2]: images.read(file),
                "json": json.dumps(content, ensure_ascii=False, allow_nan=False).encode(),
                "txt": content["caption"].encode(),
            }
            for extension, data in sorted(members.items()):
                member = tarfile.TarInfo(f"{content['key']}.{extension}")
                member.size = len(data)
                self._tar.addfile(member, io.BytesIO(data))


def _contents(table: pa.Table) -> list[dict[str, Any]]:
    """What each row's json says, in this order of keys."""
    scores = [name for name in table.column_names if name.startswith("clip_similarity")]
    source = [name for name in table.column_names if name.startswith("source_")]
    names = [*_FIRST, *scores, "status", *source]
    values = [plain_values(table[name]) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
