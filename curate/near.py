"""Reads the findings of a search for duplicates: near pairs of nodes, by number, and dense nodes.

Nodes are numbered block by block. A tile's near.parquet has the rows of both nodes in their blocks (`schema.NEAR`);
their digests are in nodes.parquet of each block. Where many images are near each other, as copies of one placeholder
are, their pairs are not stored: two nodes are near if a row says so, or if both are in dense.parquet and their values
are near.
"""

import itertools
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from curate.duplicates import KINDS, NearKind
from curate.side_by_side import side_by_side
from curate.store import Folder, Inputs, Json
from curate.summaries import markers

if TYPE_CHECKING:
    import numpy.typing as npt

NODES, NEAR, DENSE, CERTIFICATE = "nodes.parquet", "near.parquet", "dense.parquet", "certificate.json"
"""The files of a block, of a tile (also dense.parquet, where it has dense nodes), and of the whole search, which has
dense.parquet with the values of all dense nodes."""

NEAR_GROUP = 1 << 17
"""Near pairs in one row group of a tile."""

DIGEST_BYTES = 32

_TILES_AT_ONCE = 4
"""Row groups of near pairs that are read at the same time."""


@dataclass(frozen=True)
class Dense:
    """The dense nodes of a search.

    Args:
        kind: compares them.
        nodes: int64 [k], ascending.
        values: [k, …].
    """

    kind: NearKind
    nodes: "npt.NDArray[np.int64]"
    values: "npt.NDArray[Any]"


Pairs = tuple["npt.NDArray[np.int64]", "npt.NDArray[np.int64]", "npt.NDArray[np.float64]"]
"""Near pairs: the numbers of both nodes, the first below the second, and their similarity."""


class NearPairs(Protocol):
    """The findings of a search."""

    @property
    def count(self) -> int:
        """The number of nodes."""

    def names(self) -> Iterable[pa.Array]:
        """Yields the digests of all nodes as hex digits, in the order of their numbers."""

    def pairs(self) -> Iterable[Pairs]:
        """Yields the stored near pairs."""

    def dense(self) -> Dense | None:
        """The dense nodes; None where all near pairs are stored."""


@dataclass(frozen=True)
class FoundPairs:
    """The findings of a finished search, read from its folders; see `NearPairs`.

    Args:
        search: the folder of the pass.
        nodes: the folder of the nodes' pass.
    """

    search: Folder
    nodes: Folder

    @classmethod
    def of(cls, inputs: Inputs, search: str) -> "FoundPairs":
        """Returns what a search found.

        Args:
            inputs: the folders of both passes.
            search: the short name of the search.
        """
        return cls(inputs[search], inputs[nodes_pass(search)])

    @cached_property
    def _certificate(self) -> Json:
        return self.search.json(CERTIFICATE)

    @cached_property
    def _starts(self) -> "npt.NDArray[np.int64]":
        """The number of the first node of each block, and the number of all nodes."""
        return np.cumsum([0, *(block["nodes"] for block in self._certificate["blocks"])], dtype=np.int64)

    @property
    def count(self) -> int:
        """See `NearPairs`."""
        return int(self._starts[-1])

    def names(self) -> Iterator[pa.Array]:
        """See `NearPairs`."""
        for block in range(len(self._starts) - 1):
            for table in self.nodes.tables(NODES, block, ["digest"]):
                yield hex_digits(plain_bytes(table["digest"]))

    def names_of(self, numbers: Collection[int]) -> dict[int, str]:
        """Returns the digests of some nodes; reads only their blocks."""
        wanted = np.array(sorted(set(numbers)), np.int64)
        block_of = np.searchsorted(self._starts, wanted, side="right") - 1
        found: dict[int, str] = {}
        for block in np.unique(block_of).tolist():
            rows = wanted[block_of == block] - self._starts[block]
            digests = self.nodes.table(NODES, block, ["digest"])["digest"].take(pa.array(rows))
            names = hex_digits(plain_bytes(digests)).to_pylist()
            found.update(zip((rows + self._starts[block]).tolist(), names, strict=True))
        return found

    def pairs(self) -> Iterator[Pairs]:
        """See `NearPairs`: ascending by tile; a row group at a time."""
        divided = tiles(len(self._starts) - 1)

        def groups() -> Iterator[tuple[int, int]]:
            for tile, marker in markers(self.search, range(len(divided))):
                for start in range(0, marker.files[NEAR].rows or 0, NEAR_GROUP):
                    yield tile, start // NEAR_GROUP

        def read(group: tuple[int, int]) -> Pairs:
            table = self.search.row_group(NEAR, *group)
            first, second = (self._starts[block] for block in divided[group[0]])
            a, b = (table[name].to_numpy().astype(np.int64) for name in ("a", "b"))
            return a + first, b + second, table["similarity"].to_numpy()

        yield from side_by_side(read, groups(), _TILES_AT_ONCE)

    def dense(self) -> Dense | None:
        """See `NearPairs`."""
        if not self._certificate.get("dense"):
            return None
        kind = KINDS.find(self._certificate["kind"])
        assert isinstance(kind, NearKind)
        table = self.search.table(DENSE)
        numbers = table["row"].to_numpy() + self._starts[table["block"].to_numpy()]
        return Dense(kind, numbers, values_of(table))


def tiles(blocks: int) -> list[tuple[int, int]]:
    """Returns the two blocks of each tile, by the number of its unit: (0, 0), (0, 1), …, (1, 1), … in this order."""
    return list(itertools.combinations_with_replacement(range(blocks), 2))


def nodes_pass(search: str) -> str:
    """Returns the short name of the pass of a search's nodes."""
    return f"nodes-{search.removeprefix('dedup-')}"


def values_of(table: pa.Table) -> "npt.NDArray[Any]":
    """Returns the column `value` of nodes as an array [n, …] of the type and shape that its schema states."""
    about = table.schema.metadata
    value, shape = np.dtype(about[b"dtype"].decode()), tuple(json.loads(about[b"shape"]))
    values: npt.NDArray[Any] = plain_bytes(table["value"]).view(value).reshape(table.num_rows, *shape)
    return values


def hex_digits(digests: "npt.NDArray[np.uint8]") -> pa.Array:
    """Returns digests, uint8 [n, 32] or plain bytes of them, as strings of 64 hex digits."""
    digests = digests.reshape(-1, DIGEST_BYTES)
    digits = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
    text = np.ascontiguousarray(digits[np.stack((digests >> 4, digests & 15), axis=-1)])
    fixed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * DIGEST_BYTES), len(digests), [None, pa.py_buffer(text)])
    return fixed.cast(pa.binary()).cast(pa.string())


def plain_bytes(column: pa.ChunkedArray) -> "npt.NDArray[np.uint8]":
    """Returns the bytes of a column of binaries of one width, one after the other."""
    whole = column.combine_chunks()
    if not len(whole):
        return np.empty(0, np.uint8)
    width = whole.type.byte_width
    return np.frombuffer(whole.buffers()[1], np.uint8)[whole.offset * width : (whole.offset + len(whole)) * width]
