"""Plans long lists by units, which run side by side and are not done again after a kill.

    look ─→ cut ─→ read ─┬→ sort ─┬→ the plan
                         └→ ids ──┘

- look, one unit: finds the lists, and decides on the columns.
- cut, a unit for some lists: cuts each into pieces (`Format.cut`), and counts their rows.
- read, a unit for a million rows: reads pieces, gives each row its part, and writes its rows by bucket of parts.
- sort, a unit for each bucket of parts: collects their rows from all reads, and writes and commits the parts.
- ids, a unit for each table of the index of ids: collects its ids from all reads.
- The plan's own unit adds up the counts, and takes over the index.

The parts have the same bytes as those of `curate.plan.worker`, which plans a short list in one unit. The folders of the
first five works are inside the plan's folder, and are deleted once the plan is done.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from curate.plan import id_index
from curate.plan.buckets import Buckets, Stored, by_parts, of_bucket
from curate.plan.formats.contract import Piece
from curate.plan.id_index import IdIndex, index_table, n_tables, put_index_table
from curate.plan.notes import Notes
from curate.plan.rows import Located, cut, rows
from curate.plan.source import Layout, look
from curate.plan.worker import Worker, assign, spilled, summarise, write_parts
from curate.scratch import scratch
from curate.side_by_side import side_by_side
from curate.store import Folder, Inputs, Outputs, key
from curate.summaries import markers

_ROWS = "rows.arrows"
_IDS = "ids.arrows"


def open_look(settings: Mapping[str, Any]) -> Worker:
    """The worker that decides on the columns. Settings: `source`, `endpoint`, as for `curate.plan.worker`."""

    def work(_unit: int, _inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        layout = look(settings["source"], settings["endpoint"])
        next(iter(outputs.values())).put_json("layout.json", layout.to_json())

    return work


def open_cut(settings: Mapping[str, Any]) -> Worker:
    """The worker that cuts lists into pieces.

    Args:
        settings: `source`, `endpoint`, and `lists`: for each unit the numbers of its first list and of the next unit's.
    """
    layout_of = _Layouts(settings)

    def work(unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        layout = layout_of(inputs)
        pieces = [
            [[piece.start, piece.stop, piece.rows, piece.pairs] for piece in cut(layout, number)]
            for number in range(*settings["lists"][unit])
        ]
        next(iter(outputs.values())).put_json("pieces.json", {"lists": pieces})

    return work


def pieces_of(folder: Folder, units: int) -> list[list[Piece]]:
    """The pieces of each list, as the units of `cut` wrote them."""
    read = side_by_side(lambda unit: folder.json("pieces.json", unit)["lists"], range(units))
    return [[Piece(*piece) for piece in of_list] for lists in read for of_list in lists]


def grouped(pieces: Sequence[Located], rows_each: int) -> list[list[list[Any]]]:
    """The pieces of each unit of `read`, of `rows_each` rows or the first number above, in JSON form."""
    groups: list[list[list[Any]]] = []
    held = rows_each
    for at in pieces:
        if held >= rows_each:
            groups.append([])
            held = 0
        piece = at.piece
        groups[-1].append([at.file, at.in_file, at.in_source, piece.start, piece.stop, piece.rows, piece.pairs])
        held += piece.pairs
    return groups


def open_read(settings: Mapping[str, Any]) -> Worker:
    """The worker that reads pieces of lists.

    Args:
        settings: `source`, `endpoint`, `seed`, `part_size`, `n_parts`, `total` (rows of the plan), and `pieces`: for
            each unit its pieces, from `grouped`.
    """
    layout_of = _Layouts(settings)

    def work(unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        layout, notes, out = layout_of(inputs), Notes(), next(iter(outputs.values()))
        pieces = [
            Located(file, in_file, in_source, Piece(*piece))
            for file, in_file, in_source, *piece in settings["pieces"][unit]
        ]
        n_parts = settings["n_parts"]
        with scratch("plan") as folder, scratch("ids") as ids_folder, scratch("joined") as joined:
            buckets = Buckets(folder, spilled(layout.plan), n_parts, settings["part_size"])
            index = IdIndex(ids_folder, settings["total"])
            assign(rows(layout, pieces, notes), layout.plan, settings["seed"], n_parts, buckets, index)
            for role, spill in ((_ROWS, buckets), (_IDS, index.buckets)):
                spill.write(joined / role)
                out.put_file(role, joined / role)
        out.put_json("notes.json", notes.to_json())

    return work


def open_sort(settings: Mapping[str, Any]) -> Worker:
    """The worker that writes and commits the parts of a bucket.

    Args:
        settings: `source`, `endpoint`, `part_size`, `n_parts`, and `reads`, the number of units of `read`.
    """
    collect = _Collector(settings["reads"])
    layout_of = _Layouts(settings)
    done: set[int] | None = None

    def work(unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        nonlocal done
        plan, shape, out = inputs["plan"], layout_of(inputs).plan, next(iter(outputs.values()))
        done = plan.units() if done is None else done
        parts = of_bucket(unit, settings["n_parts"], settings["part_size"])
        if done.issuperset(parts):
            counts = [plan.marker(part).counts for part in parts]
        else:
            outputs_of = partial(plan.outputs, attempt=out.attempt)
            counts = [
                dict(made)
                for some, table in collect(inputs["read"], _ROWS, unit, parts, spilled(shape))
                for made in write_parts(table, some, shape, outputs_of)
            ]
        out.put_json("parts.json", {"parts": counts})

    return work


def open_ids(settings: Mapping[str, Any]) -> Worker:
    """The worker that writes tables of the index of ids. Settings: `reads`, as for `open_sort`, and `total`."""
    collect = _Collector(settings["reads"])

    def work(unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        out = next(iter(outputs.values()))
        tables = of_bucket(unit, n_tables(settings["total"]), id_index.ROWS)
        for numbers, ids in collect(inputs["read"], _IDS, unit, tables, id_index.SCHEMA):
            for number in numbers:
                name = f"ids/{key(number)}.{out.attempt}.parquet"
                out.put_table(f"{number}.parquet", index_table(ids, number), name=name)

    return work


def open_end(settings: Mapping[str, Any]) -> Worker:
    """The worker of the plan's own unit.

    Args:
        settings: `reads`, `sorts` and `ids`, the numbers of units of these works.
    """

    def work(_unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        out, notes = outputs["plan"], Notes()
        for stored in side_by_side(partial(inputs["read"].json, "notes.json"), range(settings["reads"])):
            notes.merge(Notes.from_json(stored))
        for unit in range(settings["ids"]):
            for role in sorted(inputs["ids"].marker(unit).files, key=lambda role: int(role.partition(".")[0])):
                store, name = inputs["ids"].store, inputs["ids"].file(role, unit)
                put_index_table(out, int(role.partition(".")[0]), store.read(name))
        counts = side_by_side(partial(inputs["sort"].json, "parts.json"), range(settings["sorts"]))
        summarise([part for of_unit in counts for part in of_unit["parts"]], out)
        out.notes.extend(notes.lines())

    return work


class _Layouts:
    """Gives the layout of the source, which is read once in each process."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._layout: Layout | None = None

    def __call__(self, inputs: Inputs) -> Layout:
        if self._layout is None:
            stored = inputs["look"].json("layout.json")
            self._layout = Layout.from_json(stored, self._settings["source"], self._settings["endpoint"])
        return self._layout


class _Collector:
    """Collects the rows of a bucket from all units of `read`, whose markers are read once in each process."""

    def __init__(self, reads: int) -> None:
        self._reads = reads
        self._files: list[dict[str, str]] = []

    def __call__(
        self, read: Folder, role: str, bucket: int, parts: range, schema: pa.Schema
    ) -> Iterator[tuple[range, pa.Table]]:
        """The rows of a bucket, as `by_parts` gives them."""
        if not self._files:
            self._files = [
                {file: f"{read.path}/{info.name}" for file, info in marker.files.items()}
                for _, marker in markers(read, range(self._reads))
            ]
        names = [files[role] for files in self._files]
        stored = list(side_by_side(lambda name: Stored.read(read.store, name, bucket), names))
        n_bytes = sum(one.bytes for one in stored)
        return by_parts(lambda: (table for one in stored for table in one.tables()), schema, parts, n_bytes)
