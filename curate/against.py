"""The sets of items that a recipe compares its images with: their keys, the names of their passes, and their matches.

It is a module of the package itself, as the recipe, the search in `dedup`, the step in `select`, the report and
`explain` need it, and no room may import another. A set's items are gathered into blocks of nodes for each kind of
duplicate that a step compares them by (`set-<set>-<kind>`); a search compares the run's blocks with the set's
(`against-<set>-<kind>`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, create_model, model_validator

from curate.duplicates import KINDS, DuplicateKind
from curate.errors import nearest
from curate.keys import Keys, OptionalPlace, Places
from curate.near import NODES
from curate.store import Folder, Inputs

MATCHES = "matches.parquet"
"""The file of a tile's matches, and of the items that the dropped pairs of a part match."""

SET = "set.json"
"""The file that says what a set's items are called."""

FOUND = pa.schema(
    [
        pa.field("image", pa.binary(32), nullable=False),
        pa.field("item", pa.binary(32), nullable=False),
        pa.field("similarity", pa.float64(), nullable=False),
    ]
)
"""Matches of a tile: the digest of an image of the run, that of an item of the set, and how alike they are."""


class _AnySet(Keys):
    """A set of items that images are compared with."""

    images: Places = Field(
        [],
        description="Folders of images, `.tar` files of samples, and globs of them, as with `source.kind: samples`; "
        "they are read, hashed and embedded as the run's own pictures.",
    )
    result: OptionalPlace = Field(
        None,
        description="An earlier result: the folder of a finished run, or its `pack-…` in it; the images of its pairs.",
    )

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        files = [name for name in file_kinds() if getattr(self, name)]
        sources = [*(["images"] if self.images else []), *(["result"] if self.result else []), *files[:1]]
        if not sources:
            raise ValueError(
                f"a set names its items by `images`, by `result`, or by one or more of: {', '.join(file_kinds())}"
            )
        if len(sources) > 1:
            raise ValueError(f"a set names its items by {' or by '.join(sources)}, not by both; make two sets of them")
        return self

    @property
    def kinds(self) -> list[str]:
        """The kinds of duplicates by which images can be compared with this set."""
        return [name for name in file_kinds() if self.is_of_images or getattr(self, name)]

    @property
    def is_of_images(self) -> bool:
        """Whether its values are known to belong to images, so that several kinds can be compared together."""
        return bool(self.images) or self.result is not None


def file_kinds() -> list[str]:
    """The names of the kinds of duplicates whose values are read from files."""
    return [name for name, kind in KINDS.items() if kind.stored]


def _of_kinds() -> dict[str, Any]:
    """A field for each kind of duplicate whose values are read from files."""
    fields: dict[str, Any] = {}
    for name in file_kinds():
        stored = KINDS[name].stored
        assert stored is not None
        what = f"`.txt`, a value of {stored.digits} hex digits in each line" if stored.digits else "`.npy`, [n, values]"
        about = f"Files or globs of values for `by: {name}`: {what}, or `.parquet` with the column `{stored.column}`."
        fields[name] = (Places, Field([], description=about))
    return fields


def _set_keys() -> type[_AnySet]:
    return create_model("ReferenceSet", __base__=_AnySet, __doc__=_AnySet.__doc__, **_of_kinds())


if TYPE_CHECKING:

    class ReferenceSet(_AnySet):
        """The model that `_set_keys` makes from the registry of kinds of duplicates."""
else:
    ReferenceSet = _set_keys()


def set_pass(name: str, kind: str) -> str:
    """The short name of the pass that gathers a set's items for a kind of duplicate."""
    return f"set-{name}-{kind}"


def search_pass(name: str, kind: str) -> str:
    """The short name of the pass that searches a set for the run's images."""
    return f"against-{name}-{kind}"


@dataclass(frozen=True)
class Comparison:
    """A comparison that the steps of a recipe ask for: of images with a set, by a kind of duplicate.

    Attributes:
        set: the name of the set.
        kind: the kind of duplicate.
        every: whether a step needs every match of an image, as it compares by several kinds; else the best one.
    """

    set: str
    kind: DuplicateKind
    every: bool = False


def compared(steps: Sequence[Any]) -> list[Comparison]:
    """Returns what the steps compare with sets (`curate.select.steps.contract.Step`), each set and kind once."""
    found: dict[tuple[str, str], Comparison] = {}
    for step in steps:
        for one in step.kind.against(step):
            key = (one.set, one.kind.full_name)
            known = found.get(key, one)
            found[key] = Comparison(one.set, one.kind, every=one.every or known.every)
    return list(found.values())


def fault(name: str, kinds: Sequence[str], sets: Mapping[str, _AnySet]) -> str:
    """Returns what is wrong with a step that compares with a set by some kinds, in one line; '' where nothing is."""
    if name not in sets:
        known = nearest(name, sets) if sets else "; the recipe has no section `against`"
        return f"against has no set {name!r}{known}"
    for kind in kinds:
        if kind not in file_kinds():
            return f"a set has no values for by: {kind}; compare images by {' or '.join(file_kinds())}"
        if kind not in sets[name].kinds:
            return f"against.{name} has no values for by: {kind}; write against.{name}.{kind}, files of them"
    return ""


class Sets:
    """Reads the sets of a run, and what its images match in them.

    Args:
        inputs: the folders of the run.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs

    def matches(self, name: str, kind: str) -> Iterator[pa.Table]:
        """Yields the matches (`FOUND`) of the run's images in a set, tile by tile."""
        search = self._inputs[search_pass(name, kind)]
        for tile in range(search.marker().counts["tiles"]):
            yield from search.tables(MATCHES, tile)

    def items(self, name: str, kind: str) -> Iterator[pa.Table]:
        """Yields the digests (`item`) and ids (`id`) of a set's items, ascending by digest."""
        folder = self._inputs[set_pass(name, kind)]
        for block in range(folder.marker().counts["blocks"]):
            for table in folder.tables(NODES, block, ["digest", "id"]):
                yield table.rename_columns(["item", "id"])

    def searched(self, name: str, kind: str) -> int | None:
        """The pairs of an image and an item that a search accounts for; None where equal values need no search."""
        folder = self._inputs.folders.get(search_pass(name, kind))
        return None if folder is None else folder.marker().counts["pairs"]

    def named(self, name: str, kind: str, ids: pa.Array) -> pa.Array:
        """Returns the names of items from their ids: a file and a line or row of it, of a result a pair's id."""
        folder = self._inputs[set_pass(name, kind)]
        said = folder.json(SET)
        if said["source"] == "result":
            return pa.array([id_.hex() for id_ in ids.to_pylist()], pa.string())
        if said["source"] == "images":
            called = _image_names(Folder.at(folder.store, said["plan"]), said["parts"], ids)
            return pa.array([called[id_] for id_ in ids.to_pylist()], pa.string())
        files = [str(file) for file in said["files"]]
        return pa.array([item_name(files, id_) for id_ in ids.to_pylist()], pa.string())


def item_id(file: int, row: int) -> bytes:
    """Returns the id of an item of files: the numbers of its file and of its row, from 0; ids sort as these do."""
    return file.to_bytes(8, "big") + row.to_bytes(8, "big")


def item_name(files: Sequence[str], id_: bytes) -> str:
    """Returns what an item of files is called: `hashes.txt line 17`, `vectors.npy row 16` (rows count from 0)."""
    file, row = files[int.from_bytes(id_[:8], "big")], int.from_bytes(id_[8:], "big")
    return f"{file} line {row + 1}" if file.lower().endswith(".txt") else f"{file} row {row}"


def _image_names(plan: Folder, parts: int, ids: pa.Array) -> dict[bytes, str]:
    """Returns by id the names of images of a set: folder and file, or tar and member."""
    wanted, called = ids.cast(pa.binary(16)), dict[bytes, str]()
    for part in range(parts):
        rows = plan.table("pairs.parquet", part, ["image_id", "url", "sample_member"])
        for row in rows.filter(pc.is_in(rows["image_id"], value_set=wanted)).to_pylist():
            suffix = str(row["sample_member"] or "").rpartition(".")[2]
            called[row["image_id"]] = f"{unquote(row['url'].removeprefix('sample:'))}.{suffix}"
    return called


def item_of(select: Folder, part: int, pair: bytes) -> dict[str, Any] | None:
    """Returns the row of `schema.MATCHED` of a pair that a step dropped for a match; None where it has none."""
    if MATCHES not in select.marker(part).files:
        return None
    matched = select.table(MATCHES, part)
    rows = matched.filter(pc.equal(matched["pair_id"], pa.scalar(pair, pa.binary(16)))).to_pylist()
    return rows[0] if rows else None
