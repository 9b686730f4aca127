"""The contract of a result layout, between the pack pass, the card, `verify` and a layout's module."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pyarrow as pa

from curate.errors import UsageError, counted
from curate.store import Outputs


@dataclass(frozen=True)
class StoredImage:
    """An image as fetch stored it.

    Args:
        extension: `jpg`, `png` or `webp`.
        data: its bytes.
    """

    extension: str
    data: bytes


@dataclass(frozen=True)
class Packed:
    """The contents of the whole result.

    Args:
        sizes: pairs of each shard, in the order of the shards.
        embeddings: the columns of the embedding tables besides `uid`: `image_embedding` and `text_embedding` of the
            first model, then those of the others, which end in `_<model>`. There is no `text_embedding` without
            captions, and none of a model without a text tower.
        has_captions: whether the pairs have captions; without, the shards' tables have no column `caption`.
    """

    sizes: Sequence[int]
    embeddings: Sequence[str]
    has_captions: bool


@dataclass(frozen=True)
class Description:
    """The card's description of a layout's files, in Markdown.

    Args:
        holds: a noun for the files that contain the pairs, such as `3 WebDataset shards`.
        files: lines of the section on files.
        reading: lines of the section on reading them: code blocks that run in the result's folder.
        data_files: a glob of the files that Hugging Face's `load_dataset` is to read; '' where it cannot read them.
            Where several layouts give one, the first counts.
    """

    holds: str
    files: Sequence[str]
    reading: Sequence[str]
    data_files: str = ""


class LayoutFiles:
    """Writes a layout's files into the result's folder, each name once.

    Args:
        outputs: the unit that the files belong to.
        layout: the layout's name, for messages.
    """

    def __init__(self, outputs: Outputs, layout: str) -> None:
        self._outputs = outputs
        self._layout = layout

    def put(self, name: str, data: bytes, *, rows: int | None = None) -> None:
        """Writes a file; `rows` where its row i is pair i of the shard.

        Raises:
            UsageError: another layout writes a file of that name.
        """
        self._outputs.put(self._new(name), data, name=name, rows=rows)

    def put_file(self, name: str, source: Path, *, rows: int | None = None) -> None:
        """Moves a local file into the result; otherwise as `put`."""
        self._outputs.put_file(self._new(name), source, name=name, rows=rows)

    def put_table(self, name: str, table: pa.Table) -> None:
        """Writes a table as Parquet; otherwise as `put`."""
        self._outputs.put_table(self._new(name), table, name=name)

    def put_json(self, name: str, content: Any) -> None:
        """Writes JSON with sorted keys; otherwise as `put`."""
        self._outputs.put_json(self._new(name), content, name=name)

    def _new(self, name: str) -> str:
        if name in self._outputs.files:
            raise UsageError(
                f"the result layout {self._layout!r} writes {name}, which the result already has; "
                "leave it, or the other layout, out of pack.layouts"
            )
        return name


class CheckedFiles(Protocol):
    """The result's files as `verify` passes them to a layout's check. A file that no check opens is a fault."""

    def file(self, name: str) -> AbstractContextManager[Path | None]:
        """Gives a file of the result as a local path, for the time of the context.

        None where the file is missing or differs from the manifest; `verify` reports that itself. Exceptions from
        reading a damaged file end the context and are reported as faults, too.

        Args:
            name: in the result's folder.
        """

    def fault(self, name: str, what: str) -> None:
        """Reports a fault of a file, in one line."""


class ShardWriter(ABC):
    """Writes one layout's files of one shard."""

    def add(self, rows: pa.Table, images: Sequence[StoredImage]) -> None:
        """Takes the images of the shard's next rows; called only where the layout takes images.

        Args:
            rows: of the shard's table.
            images: one for each row.
        """
        raise NotImplementedError(f"{type(self).__name__} takes images and has no `add`")

    @abstractmethod
    def finish(self, table: pa.Table, embeddings: pa.Table, files: LayoutFiles) -> None:
        """Writes the files of the shard; called once, after the last `add`.

        Args:
            table: the shard's rows, with the columns of `curate.pack.rows.described`.
            embeddings: the same pairs, row for row, with the columns of `curate.pack.rows.embedded`.
            files: where to write.
        """

    def close(self) -> None:  # noqa: B027  (few writers hold something open)
        """Releases what the writer holds open; always called, also after `finish`."""


class ResultLayout(ABC):
    """A result layout: writes the files that hold the kept pairs, describes them for the card, and checks them.

    A module of `curate.pack.layouts` offers one as `LAYOUT` (or several, as a tuple); another package brings one
    through an entry point of the group `curate.layouts`. Its files are in folders of its own. Their bytes depend only
    on the arguments of its methods, not on times, hosts or the order of completion.

    Attributes:
        name: its name in `pack.layouts`: small letters, digits and underscores.
        version: raised when the layout would write other bytes from the same pairs; part of pack's fingerprint.
        takes_images: whether its writers take image bytes. Each image is read once for all layouts that take images,
            and not at all where none does.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    takes_images: ClassVar[bool] = False

    @abstractmethod
    def open_shard(self, shard: int, scratch: Path) -> ShardWriter:
        """Returns a writer of one shard's files.

        Args:
            shard: its number, from 0.
            scratch: a local folder of its own, empty, removed after the shard.
        """

    def write_whole(self, packed: Packed, files: LayoutFiles) -> None:  # noqa: B027  (few layouts have such files)
        """Writes the files that describe all shards; called once, after every shard is written."""

    @abstractmethod
    def describe(self, packed: Packed) -> Description:
        """Returns the card's description of its files."""

    @abstractmethod
    def check_shard(self, shard: int, expected: Sequence[str] | None, packed: Packed, files: CheckedFiles) -> None:
        """Compares the files of one shard with each other and with the pairs that the shard has to hold.

        Args:
            shard: its number.
            expected: the `key` of each pair, in order; None where the decisions cannot be read.
            packed: the contents of the whole result.
            files: opens the files and takes the faults.
        """

    def check_whole(self, packed: Packed, files: CheckedFiles) -> None:  # noqa: B027  (as `write_whole`)
        """Checks the files of `write_whole`."""


def differences(found: Sequence[str], expected: Sequence[str]) -> Iterator[str]:
    """Yields faults of a file whose rows are pairs: a wrong number of rows, and the first row with a wrong pair."""
    if len(found) != len(expected):
        yield f"holds {counted(len(found), 'pair')}, not {len(expected)}"
    for row, (key, wanted) in enumerate(zip(found, expected, strict=False)):
        if key != wanted:
            yield f"row {row} is {key}, where {wanted} belongs"
            return
