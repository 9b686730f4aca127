"""Converts the funnel's verdicts into the table `decisions`, and checks that all sums agree."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate import schema
from curate.errors import BrokenResult
from curate.select.ids import from_words
from curate.select.steps.contract import RowWise, Step


def decisions(verdicts: pa.Table, steps: Sequence[Step[Any]]) -> pa.Table:
    """Converts the funnel's verdicts (`Funnel.verdicts`) into rows of `schema.DECISIONS`."""
    before, step = verdicts["before"].combine_chunks(), verdicts["step"].combine_chunks()
    names = pa.array([one.name for one in steps], pa.string())
    reason = pc.coalesce(before, names.take(step))
    duplicate = verdicts["similarity"].is_valid().to_numpy()
    original = from_words(_numbers(verdicts["of_high"]), _numbers(verdicts["of_low"]))
    return pa.table(
        [
            from_words(_numbers(verdicts["high"]), _numbers(verdicts["low"])),
            reason.is_null(),
            reason,
            _reasons(verdicts, before, step, names, [isinstance(one.kind, RowWise) for one in steps]),
            original.take(pa.array(np.arange(len(duplicate)), mask=~duplicate)),
            verdicts["similarity"],
        ],
        schema=schema.DECISIONS,
    )


def matched(verdicts: pa.Table) -> pa.Table:
    """Returns the verdicts on pairs that a step dropped as they match an item of a set, as rows of `schema.MATCHED`."""
    rows = verdicts.filter(verdicts["item"].is_valid())
    ids = from_words(_numbers(rows["high"]), _numbers(rows["low"]))
    return pa.table([ids, rows["set_name"], rows["item"], rows["likeness"]], schema=schema.MATCHED)


def check(
    report: Mapping[str, Any], planned: Mapping[int, int], kept: Mapping[int, int], dropped: Counter[str]
) -> None:
    """Compares the funnel's sums with the decisions that were written.

    Args:
        report: the content of `funnel.json`.
        planned: rows of the plan by part.
        kept: kept rows by part, counted in the decisions.
        dropped: rows by reason, counted in the decisions.

    Raises:
        BrokenResult: a row is counted twice or not at all.
    """
    said = Counter({step["name"]: step["dropped"] for step in report["steps"]})
    for what, numbers in {
        "rows": (report["planned"], sum(planned.values()), report["kept"] + said.total()),
        "kept rows": (report["kept"], sum(kept.values()), report["planned"] - dropped.total()),
    }.items():
        if len(set(numbers)) > 1:
            raise BrokenResult(f"select: {what} do not add up: {numbers}")
    if +said != +dropped:
        raise BrokenResult(f"select: reasons do not add up: the funnel has {dict(+said)}, the parts {dict(dropped)}")


def _reasons(
    verdicts: pa.Table, before: pa.Array, step: pa.Array, names: pa.Array, row_wise: Sequence[bool]
) -> pa.ListArray:
    """For each row, in the order of the steps: the one that dropped it, and all row-wise ones that would drop it."""
    # One column of flags for the reason before all steps, then one for each step.
    flags = np.zeros((len(step), len(names) + 1), bool)
    flags[:, 0] = before.is_valid().to_numpy(zero_copy_only=False)
    fell = np.flatnonzero(step.is_valid().to_numpy(zero_copy_only=False))
    flags[fell, step.drop_null().to_numpy() + 1] = True
    for number, alone in enumerate(row_wise):
        if alone:
            true = pc.fill_null(verdicts[f"w{number}"], False).to_numpy()
            flags[:, number + 1] |= true & ~flags[:, 0]
    row, column = np.nonzero(flags)
    by_step = names.take(pa.array(column - 1, mask=column == 0))
    offsets = np.append(0, np.cumsum(flags.sum(axis=1)))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pc.coalesce(by_step, before.take(pa.array(row))))


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    numbers: npt.NDArray[np.uint64] = pc.fill_null(column, 0).to_numpy()
    return numbers
