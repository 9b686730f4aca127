"""The pass `plan`: one unit for a short source, and works by units before it for long lists."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from curate.plan import buckets, id_index
from curate.plan.buckets import parts_each
from curate.plan.formats import contract
from curate.plan.id_index import n_tables
from curate.plan.long_lists import grouped, pieces_of
from curate.plan.rows import located
from curate.plan.worker import count_parts
from curate.prepare import Prepared
from curate.runs.booking import Booking, for_pack
from curate.runs.identity import placeless
from curate.runs.passes import Declaration, Layout, Pass
from curate.runs.work import Work
from curate.store import WHOLE, Inputs, Json

VERSION = 3

SHORT = 8 << 20
"""Bytes of lists up to which the plan is one unit, in the driver's process: some 100,000 rows, two seconds' work."""

PACKED = 10
"""Bytes of a list for each byte of its compressed file, about."""

CUT_BYTES = 1 << 30
CUT_LISTS = 256
"""Bytes, and number, of the lists that one unit cuts into pieces; a longer list has a unit of its own."""

_WORK = "work"
"""The folder in the plan's folder that holds what works before the plan's own unit write."""


def declare(prepared: Prepared) -> Declaration:
    """Declares the plan, which depends on the run's identity alone, whatever the paths of its source."""
    return Declaration("plan", "plan", VERSION, placeless(prepared.identity), is_decided_on=True)


def works(prepared: Prepared, layout: Layout) -> Iterator[Work]:
    """Yields the works that read the source and write every part's rows; each is done before the next is asked for."""
    recipe, plan = prepared.recipe, layout.passes["plan"]
    settings = {
        "source": recipe.source.model_dump(mode="json"),
        "seed": recipe.seed,
        "part_size": recipe.part_size,
        "endpoint": recipe.storage.endpoint,
    }
    is_list = recipe.source.kind != "samples"
    listing = prepared.identity["source"]
    if is_list and sum(map(_bytes, listing)) > SHORT:
        workers, booking = recipe.booking("plan", for_pack)
        yield from by_units(plan, settings, [file["size"] for file in listing], workers, booking)
        return
    opener, inputs = "curate.plan.worker:open_worker", Inputs({}, ())
    yield Work("plan", opener, settings, {"plan": plan}, inputs, (WHOLE,), is_small=is_list)


def by_units(
    plan: Pass, settings: Json, sizes: Sequence[int], processes: int | None = None, booking: Booking | None = None
) -> Iterator[Work]:
    """Yields the works of long lists (`curate.plan.long_lists`), the last of which is the plan's own unit.

    Args:
        plan: the pass.
        settings: `source`, `seed`, `part_size`, `endpoint`.
        sizes: the bytes of each list.
        processes: the number of workers; None: the engine chooses it.
        booking: what each worker reserves.
    """
    store, bookkeeping = plan.folder.store, f"{plan.folder.path}/{_WORK}"
    # A release that divides the work otherwise does not go on with what an earlier one left.
    divided: Json = {
        "piece": contract.PIECE_ROWS,
        "bucket": buckets.BUCKET_ROWS,
        "ids": id_index.ROWS,
        "cut": [CUT_BYTES, CUT_LISTS],
    }
    steps = {
        name: Pass.of(store, Declaration(f"{bookkeeping}/{name}", "plan", VERSION, divided))
        for name in ("look", "cut", "read", "sort", "ids")
    }
    end = Work("plan", _opener("end"), {}, {"plan": plan}, Inputs({}, ()), (WHOLE,), is_small=True)
    if plan.folder.is_done():
        yield end
        if store.kind(bookkeeping):
            store.delete_folder(bookkeeping)
        return

    def step(name: str, units: int, *reads: str, rows: float = 0.0, **more: object) -> Work:
        return Work(
            f"plan-{name}",
            _opener(name),
            {**settings, **more},
            {name: steps[name]},
            Inputs({"plan": plan.folder, **{read: steps[read].folder for read in reads}}, ()),
            range(units),
            rows,
            processes=processes,
            booking=booking or Booking(default_count=for_pack),
        )

    # So that a plan that was stopped is known as one, and is swept when it is done.
    plan.settle()
    yield replace(step("look", 0), units=(WHOLE,), processes=1, is_small=True)
    lists = _ranges(sizes)
    yield step("cut", len(lists), "look", lists=lists)
    pieces = located(pieces_of(steps["cut"].folder, len(lists)))
    total = sum(at.piece.pairs for at in pieces)
    shape = {"total": total, "n_parts": count_parts(total, settings["part_size"])}
    groups = grouped(pieces, contract.PIECE_ROWS)
    yield step("read", len(groups), "look", rows=total / len(groups), pieces=groups, **shape)
    n_sorts = -(-shape["n_parts"] // parts_each(settings["part_size"]))
    yield step("sort", n_sorts, "look", "read", rows=total / n_sorts, reads=len(groups), **shape)
    n_ids = -(-n_tables(total) // parts_each(id_index.ROWS))
    yield step("ids", n_ids, "read", rows=total / n_ids, reads=len(groups), **shape)
    inputs = Inputs({name: steps[name].folder for name in ("read", "sort", "ids")}, ())
    yield replace(end, settings={"reads": len(groups), "sorts": n_sorts, "ids": n_ids}, inputs=inputs)
    store.delete_folder(bookkeeping)


def _opener(name: str) -> str:
    return f"curate.plan.long_lists:open_{name}"


def _bytes(file: Json) -> int:
    """The bytes of a list of text with as many rows, about."""
    is_plain = file["name"].endswith((".csv", ".tsv", ".jsonl", ".txt"))
    return int(file["size"]) * (1 if is_plain else PACKED)


def _ranges(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """The numbers of the first list of each unit of `cut` and of the next unit's."""
    ranges: list[tuple[int, int]] = []
    held = first = 0
    for number, size in enumerate(sizes):
        if number > first and (held + size > CUT_BYTES or number - first == CUT_LISTS):
            ranges.append((first, number))
            first, held = number, 0
        held += size
    return [*ranges, (first, len(sizes))]
