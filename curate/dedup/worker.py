"""Dedup: gathers distinct images or captions in blocks, and searches the tiles of blocks for near pairs.

    shelve ─→ gather ─→ search ─→ certify

A run that fits into one block is one unit (`open_worker`). In a longer one these are works by units, which run side by
side and are not done again after a kill: `shelve` by some parts, `gather` by block, `search` by tile. `add_up`, after
`gather`, and `certify` are one unit each.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from curate.dedup import nodes
from curate.dedup.certificate import put_certificate
from curate.dedup.nodes import Nodes
from curate.dedup.tiles import put_tile
from curate.duplicates import NearKind, kind_named
from curate.errors import UsageError, counted
from curate.near import NODES, tiles
from curate.scratch import scratch
from curate.side_by_side import side_by_side
from curate.store import Inputs, Outputs
from curate.summaries import markers

Worker = Callable[[int, Inputs, Mapping[str, Outputs]], None]


def open_worker(settings: Mapping[str, Any]) -> Worker:
    """The worker of a search whose single unit is the whole corpus, in one block.

    Args:
        settings: `kind`, the name of a search (`NearKind.full_name`), and the settings of that search.

    Raises:
        UsageError: the kind has no search, or this machine does not have the device.
    """
    kind, of_kind = _kind(settings)
    search = kind.open(of_kind)

    def dedup(_unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        with scratch("dedup") as folder:
            if out := outputs.get(kind.nodes_pass):
                found = (kind.values(inputs, part, of_kind) for part in inputs.parts)
                block, counts = nodes.gather(found, _where(kind, inputs), _things(kind))
                of_block = out.part(0)
                nodes.put_block(block, of_block, folder / NODES)
                of_block.commit()
                _count(kind, out, counts)
                del block
            if out := outputs.get(kind.search_pass):
                gathered = inputs[kind.nodes_pass]
                loaded = Nodes.load(gathered, 0, folder)
                tile = out.part(0)
                put_tile(kind, search, 0, (0, 0), (loaded, loaded), tile, _made(folder / "tile"))
                tile.commit()
                put_certificate(kind.name, gathered, 1, out)

    return dedup


def open_shelve(settings: Mapping[str, Any]) -> Worker:
    """The worker that writes the distinct images of some parts, in one row group for each block.

    Args:
        settings: as for `open_worker`, and `blocks`, their number, and `parts_each`, the parts of a unit.
    """
    kind, of_kind = _kind(settings)
    blocks, each = settings["blocks"], settings["parts_each"]

    def shelve(unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        (out,) = outputs.values()
        found = (kind.values(inputs, part, of_kind) for part in inputs.parts[unit * each : (unit + 1) * each])
        shelf, counts = nodes.gather(found, _where(kind, inputs), _things(kind))
        with scratch("dedup") as folder:
            nodes.write(folder / NODES, nodes.by_block(shelf, blocks), shelf)
            out.put_file(NODES, folder / NODES, rows=len(shelf))
        out.counts.update(counts)

    return shelve


def open_gather(settings: Mapping[str, Any]) -> Worker:
    """The worker that writes the nodes of a block.

    Args:
        settings: as for `open_worker`, and `shelves`, their number.
    """
    kind, _ = _kind(settings)

    def gather(unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        (out,) = outputs.values()
        shelves = inputs["shelves"]
        rows = side_by_side(lambda shelf: shelves.row_group(NODES, shelf, unit), range(settings["shelves"]))
        with scratch("dedup") as folder:
            block = nodes.distinct([nodes.read(table) for table in rows], _where(kind, inputs))
            nodes.put_block(block, out, folder / NODES)

    return gather


def open_add_up(settings: Mapping[str, Any]) -> Worker:
    """The worker that adds up the shelves' counts of images. Settings: `kind`; `shelves`, their number."""
    kind, _ = _kind(settings)

    def add_up(_unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        (out,) = outputs.values()
        counts: Counter[str] = Counter({_things(kind): 0, "unusable": 0})
        for _, marker in markers(inputs["shelves"], range(settings["shelves"])):
            counts.update(marker.counts)
        _count(kind, out, counts)

    return add_up


def open_search(settings: Mapping[str, Any]) -> Worker:
    """The worker that searches tiles.

    Args:
        settings: as for `open_worker`, and `blocks`, their number.

    Raises:
        UsageError: this machine does not have the device.
    """
    kind, of_kind = _kind(settings)
    search, divided = kind.open(of_kind), tiles(settings["blocks"])

    def search_tile(unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        (out,) = outputs.values()
        a, b = divided[unit]
        with scratch("dedup") as folder:
            left = Nodes.load(inputs[kind.nodes_pass], a, folder)
            right = left if a == b else Nodes.load(inputs[kind.nodes_pass], b, folder)
            put_tile(kind, search, unit, (a, b), (left, right), out, _made(folder / "tile"))

    return search_tile


def open_certify(settings: Mapping[str, Any]) -> Worker:
    """The worker that writes the certificate. Settings: `kind`; `blocks`, their number."""
    kind, _ = _kind(settings)

    def certify(_unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        (out,) = outputs.values()
        put_certificate(kind.name, inputs[kind.nodes_pass], settings["blocks"], out)

    return certify


def _kind(settings: Mapping[str, Any]) -> tuple[NearKind, dict[str, Any]]:
    kind = kind_named(settings["kind"])
    if not isinstance(kind, NearKind):
        raise UsageError(f"there is no search for duplicates by {settings['kind']}")
    return kind, {name: value for name, value in settings.items() if name != "kind"}


def _where(kind: NearKind, inputs: Inputs) -> str:
    """The folder of the values, for messages."""
    *_, values = (folder.path for name, folder in inputs.folders.items() if name != kind.nodes_pass)
    return values


def _things(kind: NearKind) -> str:
    """The name of the count of what was gathered: `images` or `captions`."""
    return f"{kind.compares.noun}s"


def _count(kind: NearKind, out: Outputs, counts: Mapping[str, int]) -> None:
    out.counts.update(counts)
    if unusable := counts["unusable"]:
        noun = kind.compares.noun
        left_out = counted(unusable, f"{noun} was", f"{noun}s were")
        out.notes.append(f"{left_out} not compared: {kind.left_out}")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
