"""Gathers a set's items in blocks of nodes, and searches the tiles of the run's blocks and the set's for matches.

    shelve ─→ gather ─→ finish        of a set, for each kind of duplicate
    search ─→ certify                 of the run's images and the set's items

The first works of each line are by units, which run side by side and are not done again after a kill: `shelve` by some
rows of a file, `gather` by block, `search` by tile. `finish` and `certify` are one unit each.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate.against import SET, item_id, set_pass
from curate.dedup import nodes
from curate.dedup.against.certificate import put_certificate
from curate.dedup.against.files import LEFT_OUT, ValueFile, digest, read
from curate.dedup.against.matches import put_matches
from curate.dedup.against.results import ResultTable
from curate.dedup.against.results import read as read_result
from curate.dedup.nodes import BlockFacts, Nodes
from curate.dedup.tiles import ACCOUNT
from curate.duplicates import DuplicateKind, NearKind, PartValues, kind_named
from curate.errors import BrokenResult, RecipeError, UsageError, counted
from curate.near import NODES
from curate.scratch import scratch
from curate.side_by_side import side_by_side
from curate.store import Inputs, Json, Outputs
from curate.summaries import markers

Worker = Callable[[int, Inputs, Mapping[str, Outputs]], None]


def open_shelve(settings: Mapping[str, Any]) -> Worker:
    """The worker that reads some rows of a set's files, and writes them in one row group for each block.

    Args:
        settings: `set` and `kind`, their names; `source`: files, result or images; `files`, the fields of each
            `ValueFile`, or of a result each `ResultTable`; `units`, of each unit the files, or of images the parts,
            that it reads: number, first row, and the row after the last; `blocks`, their number; `search`, the settings
            of the kind's search; `endpoint`.

    Raises:
        RecipeError: a file cannot be read, or a value is not of the kind.
    """
    kind, where = _kind(settings), _where(settings)
    assert kind.stored is not None
    stored, endpoint = kind.stored, settings["endpoint"]

    def shelve(unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        (out,) = outputs.values()
        pieces, left_out, first = [], Counter[str](), dict[str, list[int]]()
        for number, start, stop in settings["units"][unit]:
            if settings["source"] == "images":
                found, images = _of_part(kind, inputs, number, settings["search"])
                pieces.append(nodes.records(found, where))
                left_out["without a value"] += images - len(found.digests)
                continue
            file = settings["files"][number]
            if settings["source"] == "result":
                found, values = read_result(where, ResultTable(**file), stored, endpoint)
            else:
                values = read(where, ValueFile(**file), start, stop, stored, endpoint)
                found = _images(kind, number, values.rows, values.values)
            pieces.append(nodes.records(found, where))
            left_out += values.left_out
            for reason, row in values.first.items():
                first.setdefault(reason, [number, row])
        shelf = nodes.distinct(pieces, where)
        with scratch("against") as folder:
            nodes.write(folder / NODES, nodes.by_block(shelf, settings["blocks"]), shelf)
            out.put_file(NODES, folder / NODES, rows=len(shelf))
        out.counts.update(items=sum(map(len, pieces)), **{_key(reason): count for reason, count in left_out.items()})
        # In the marker, as a shelf's files may be gone when the set is finished.
        for reason, (number, row) in first.items():
            out.counts.update({f"first_{_key(reason)}": row, f"file_{_key(reason)}": number})

    return shelve


def open_gather(settings: Mapping[str, Any]) -> Worker:
    """The worker that writes a block of a set's items; `settings` has `set`, `kind`, and the number of `shelves`."""
    where = _where(settings)

    def gather(unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        (out,) = outputs.values()
        shelves = inputs["shelves"]
        rows = side_by_side(lambda shelf: shelves.row_group(NODES, shelf, unit), range(settings["shelves"]))
        with scratch("against") as folder:
            block = nodes.distinct([nodes.read(table) for table in rows], where)
            nodes.put_block(block, out, folder / NODES, ids=True)

    return gather


def open_finish(settings: Mapping[str, Any]) -> Worker:
    """The worker that counts a set's items, and names those that were left out.

    Args:
        settings: as for `open_shelve`, and the number of `shelves`.

    Raises:
        RecipeError: no item can be compared, or a file changed since the run began.
    """
    kind, where, files = _kind(settings), _where(settings), settings["files"]
    names = [str(file["path"]).rpartition("/")[2] for file in files]

    def finish(_unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        (out,) = outputs.values()
        # The tables of a result were compared when they were read.
        for file in files if settings["source"] == "files" else ():
            if digest(where, file["path"], settings["endpoint"]) != file["sha256"]:
                raise RecipeError(f"{where}: {file['path']} changed during the run; start it again")
        totals, first = Counter[str](), dict[str, str]()
        counted_here = ["items", "without_a_value", *map(_key, LEFT_OUT)]
        for _, marker in markers(inputs["shelves"], range(settings["shelves"])):
            totals.update({key: marker.counts[key] for key in counted_here if key in marker.counts})
            for key in counted_here:
                if (row := marker.counts.get(f"first_{key}")) is not None:
                    first.setdefault(key, f"row {row} of {names[marker.counts[f'file_{key}']]}")
        notes = []
        if count := totals["without_a_value"]:
            images = counted(count, "image was", "images were")
            why = f", or {kind.left_out}" if isinstance(kind, NearKind) else ""
            notes.append(f"{images} not compared: not an image that could be read{why}")
        for reason in LEFT_OUT:
            if count := totals[_key(reason)]:
                values = counted(count, "value is", "values are")
                place = f", the first in {first[_key(reason)]}" if _key(reason) in first else ""
                notes.append(f"{values} {reason}{place}")
        if not totals["items"]:
            why = "; ".join(notes) or "its files hold no value"
            raise RecipeError(f"{where}: no item of it can be compared: {why}")
        out.notes += [f"{where}: {note}; left out" for note in notes]
        named = {"files": names} if settings["source"] == "files" else {}
        of_plan = {"plan": inputs["plan"].path, "parts": len(inputs.parts)} if settings["source"] == "images" else {}
        out.put_json(SET, {"source": settings["source"], **named, **of_plan})
        distinct = sum(BlockFacts.of(out.folder, block).nodes for block in range(settings["blocks"]))
        out.counts.update(blocks=settings["blocks"], nodes=distinct, **totals)

    return finish


def open_search(settings: Mapping[str, Any]) -> Worker:
    """The worker that searches tiles of the run's blocks and a set's.

    Args:
        settings: `set` and `kind`, their names; `tiles`, the two blocks of each unit; `every`, whether every match of
            an image is stored; `search`, the settings of the kind's search.

    Raises:
        UsageError: this machine does not have the device.
    """
    kind = _near_kind(settings)
    search, items = kind.open(settings["search"]), set_pass(settings["set"], kind.full_name)

    def search_tile(unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        (out,) = outputs.values()
        a, b = settings["tiles"][unit]
        with scratch("against") as folder:
            sides = (
                Nodes.load(inputs[kind.nodes_pass], a, _made(folder / "run")),
                Nodes.load(inputs[items], b, _made(folder / "set")),
            )
            _check_width(settings, sides)
            put_matches(kind, search, unit, (a, b), sides, out, _made(folder / "tile"), every=settings["every"])

    return search_tile


def open_certify(settings: Mapping[str, Any]) -> Worker:
    """The worker that writes the certificate; `settings` as for `open_search`, and the numbers of `blocks`, both."""
    kind = _near_kind(settings)
    items = set_pass(settings["set"], kind.full_name)

    def certify(_unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        (out,) = outputs.values()
        sides = [
            list(side_by_side(partial(BlockFacts.of, inputs[name]), range(count)))
            for name, count in zip((kind.nodes_pass, items), settings["blocks"], strict=True)
        ]
        accounts = list(side_by_side(partial(out.folder.json, ACCOUNT), range(len(settings["tiles"]))))
        put_certificate(settings["set"], kind.full_name, sides[0], sides[1], accounts, out)

    return certify


def _of_part(kind: DuplicateKind, inputs: Inputs, part: int, settings: Json) -> tuple[PartValues, int]:
    """Returns the images of a part of a set that can be compared, and the number of all its images."""
    fetched = inputs["fetch"].table("images.parquet", part, ["image_id", "sha256"])
    if isinstance(kind, NearKind):
        return kind.values(inputs, part, settings), len(fetched)
    present = fetched.filter(fetched["sha256"].is_valid())
    digests = bytes.fromhex("".join(present["sha256"].to_pylist()))
    values = np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 4)
    return PartValues(present["sha256"], present["image_id"], values), len(fetched)


def _images(kind: DuplicateKind, file: int, rows: Any, values: Any) -> PartValues:
    """Returns rows of a file as images, whose digest is that of the value: equal values are one node."""
    if isinstance(kind, NearKind):
        digests = [hashlib.sha256(value.tobytes()).hexdigest() for value in values]
    else:
        # The value is a digest itself, which is compared for equality.
        digests = [value.astype(">u8").tobytes().hex() for value in values]
    ids = pa.array([item_id(file, row) for row in rows.tolist()], pa.binary(16))
    return PartValues(pa.array(digests, pa.string()), ids, values)


def _check_width(settings: Mapping[str, Any], sides: tuple[Nodes, Nodes]) -> None:
    run, items = (side.values for side in sides)
    if len(run) and len(items) and (run.dtype, run.shape[1:]) != (items.dtype, items.shape[1:]):
        raise BrokenResult(
            f"{_where(settings)}: its values are {items.dtype} {list(items.shape[1:])}, those of the run's images "
            f"{run.dtype} {list(run.shape[1:])}"
        )


def _kind(settings: Mapping[str, Any]) -> DuplicateKind:
    kind = kind_named(settings["kind"])
    if kind is None:
        raise UsageError(f"there is no kind of duplicate {settings['kind']!r}")
    return kind


def _near_kind(settings: Mapping[str, Any]) -> NearKind:
    kind = _kind(settings)
    assert isinstance(kind, NearKind)
    return kind


def _where(settings: Mapping[str, Any]) -> str:
    """The key in the recipe, for messages."""
    return f"against.{settings['set']}.{settings['kind']}"


def _key(reason: str) -> str:
    return reason.replace(" ", "_")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
