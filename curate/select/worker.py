"""Select: decides for every row of the plan whether its pair is kept, or which step drops it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.against import MATCHES, Sets
from curate.columns import PairColumns
from curate.errors import BrokenResult
from curate.near import FoundPairs
from curate.scratch import scratch
from curate.select import rows as part_rows
from curate.select.database import connect
from curate.select.decisions import check, decisions, matched
from curate.select.funnel import Funnel
from curate.select.rows import PartRows
from curate.select.steps.contract import Step
from curate.select.steps.registry import read as read_steps
from curate.select.steps.registry import wanted
from curate.side_by_side import side_by_side
from curate.store import Inputs, Json, Outputs

Worker = Callable[[int, Inputs, Mapping[str, Outputs]], None]


def open_worker(settings: Mapping[str, Any]) -> Worker:
    """The worker of the pass `select`, whose single unit is the whole plan.

    Args:
        settings: `steps` (the recipe's, dumped), `columns` (`PairColumns.to_json`), `memory_limit` (of DuckDB),
            `missing` (parts that are left out because they were set aside), `sample` (`curate.runs.sample.Sample` as
            JSON, or None), and optionally `threads` (of DuckDB).
    """

    def work(_unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        limit, threads = settings["memory_limit"], settings.get("threads")
        with (
            scratch("select") as folder,
            connect(folder, memory_limit=limit, threads=threads) as con,
        ):
            steps, columns = read_steps(settings["steps"]), PairColumns.from_json(settings)
            funnel = Funnel(con, steps, list(columns.types()))
            scope = Scope(settings["missing"], settings["sample"])
            select(funnel, steps, columns, scope, inputs, outputs["select"])

    return work


@dataclass(frozen=True)
class Scope:
    """The limits of the rows that are decided on, within the parts of the inputs.

    Args:
        missing: parts that were set aside.
        sample: the `curate.runs.sample.Sample` of `--sample` as JSON; None where all rows are covered.
    """

    missing: Sequence[int]
    sample: Json | None

    def rows_of(self, part: int) -> int | None:
        """The number of rows of a part, from the first, that are decided on; None for all."""
        is_last = self.sample is not None and part == self.sample["parts"] - 1
        return int(self.sample["last_rows"]) if self.sample and is_last else None


def select(
    funnel: Funnel, steps: Sequence[Step[Any]], columns: PairColumns, scope: Scope, inputs: Inputs, out: Outputs
) -> None:
    """Reads all parts' columns, runs the funnel, writes and commits each part's decisions.

    Raises:
        RecipeError: a predicate cannot be computed for a row.
        BrokenResult: tables do not belong together, or the sums do not agree.
    """
    parts = sorted(inputs.parts)
    if not parts:
        raise BrokenResult("select: there is no part to decide on")
    needed = wanted(steps, list(columns.types()))

    def read(part: int) -> tuple[int, PartRows]:
        return part, part_rows.read(inputs, columns, part, needed, scope.rows_of(part))

    def write(decided: tuple[int, pa.Table]) -> tuple[int, int, Counter[str]]:
        part, verdicts = decided
        rows, unit = decisions(verdicts, steps), out.part(part)
        unit.put_table("decisions.parquet", rows)
        if any(step.kind.names_items for step in steps):
            unit.put_table(MATCHES, matched(verdicts))
        kept = pc.sum(rows["kept"], min_count=0).as_py()
        unit.counts.update(planned=rows.num_rows, kept=kept)
        unit.commit()
        reasons = pc.value_counts(rows["reason"].drop_null()).to_pylist()
        return part, kept, Counter({reason["values"]: reason["counts"] for reason in reasons})

    planned: dict[int, int] = {}
    for part, rows in side_by_side(read, parts):
        planned[part] = len(rows.pair_ids)
        funnel.add(part, rows)
    report = funnel.run(partial(FoundPairs.of, inputs), Sets(inputs))
    for step in report["steps"]:
        for search in step["searches"]:
            counts = inputs[search["near"]].marker().counts
            search |= {"searched": counts["pairs"], "dense": counts["dense"]}
    kept: dict[int, int] = {}
    dropped: Counter[str] = Counter()
    for part, count, reasons in side_by_side(write, _by_part(funnel.verdicts(), planned)):
        kept[part] = count
        dropped += reasons
    check(report, planned, kept, dropped)

    out.put_json("columns.json", columns.to_json())
    out.put_json(
        "funnel.json", {**report, "parts": len(parts), "missing_parts": list(scope.missing), "sample": scope.sample}
    )
    by_part = pa.schema([("part", pa.int32()), ("planned", pa.int64()), ("kept", pa.int64())])
    counted = [parts, [planned[part] for part in parts], [kept[part] for part in parts]]
    out.put_table("parts.parquet", pa.table(counted, schema=by_part))
    out.counts.update(planned=report["planned"], kept=report["kept"])
    out.counts.update({f"dropped:{step['name']}": step["dropped"] for step in report["steps"]})


def _by_part(verdicts: Iterable[pa.Table], planned: Mapping[int, int]) -> Iterator[tuple[int, pa.Table]]:
    """Cuts a stream of rows into the parts from which they came, in that order."""
    waiting: list[pa.Table] = []
    stream = iter(verdicts)
    for part, rows in planned.items():
        while sum(table.num_rows for table in waiting) < rows or not waiting:
            waiting.append(next(stream))
        table = pa.concat_tables(waiting)
        yield part, table.slice(0, rows)
        waiting = [table.slice(rows)]
