"""Reads every part once: recounts the decisions, fills the histograms and picks the rows to show.

Memory holds counts, a bounded tally of hosts, the picked rows, and the tables of a few parts at a time.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.columns import PairColumns
from curate.columns import read as read_columns
from curate.errors import BrokenResult
from curate.report.histogram import Histogram
from curate.schema import FETCHED, NOT_SAMPLED, REPEATED, SIMILARITY
from curate.side_by_side import side_by_side
from curate.store import Inputs

KEPT, UNDER_THRESHOLD, OTHER = range(3)
"""The stacks of a similarity histogram: kept; dropped by a threshold on the same column; dropped for another reason."""

HOSTS = 20_000
"""Hosts counted at once, at most (`Tally`)."""

CLOSE_PARTS = 8
"""How many parts are searched for the pairs closest to a threshold."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, order=True)
class Place:
    """A source row: its part and its row in the part's plan."""

    part: int
    row: int


@dataclass
class Tally:
    """Counts of names in bounded memory (Misra and Gries, 1982; merged as by Agarwal et al., 2012).

    With at most `capacity` different names the counts are exact; with more, each is too low by at most `error`.
    """

    capacity: int
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    error: int = 0

    def add(self, more: Mapping[tuple[str, str], int]) -> None:
        """Adds counts."""
        self.counts.update(more)
        if len(self.counts) > self.capacity:
            spill = sorted(self.counts.values(), reverse=True)[self.capacity // 2]
            self.error += spill
            self.counts = Counter({name: n - spill for name, n in self.counts.items() if n > spill})


@dataclass(frozen=True)
class Copy:
    """A pair that a duplicates step dropped, and the pair_id of the kept pair that it duplicates."""

    place: Place
    of: bytes
    similarity: float | None


@dataclass
class Survey:
    """The result of `survey`.

    Attributes:
        kept: rows kept.
        dropped: rows by reason.
        similarity: per model, its histogram.
        examples: per reason, and `None` for kept, the rows to show.
        copies: per step that names kept pairs, the rows to show with the kept pairs that they duplicate.
        above, below: per step with a threshold on a similarity, the closest kept and dropped rows with their values.
        failures: images that failed, by (host, error class).
    """

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    similarity: dict[str, Histogram] = field(default_factory=dict)
    examples: dict[str | None, list[Place]] = field(default_factory=dict)
    copies: dict[str, list[Copy]] = field(default_factory=dict)
    above: dict[str, list[tuple[float, Place]]] = field(default_factory=dict)
    below: dict[str, list[tuple[float, Place]]] = field(default_factory=dict)
    failures: Tally = field(default_factory=lambda: Tally(HOSTS))


@dataclass(frozen=True)
class _Rows:
    """The data read from one part: decisions, similarities by model with NaN for null, failures of its images."""

    part: int
    decisions: pa.Table
    similarity: Mapping[str, Floats]
    failures: Counter[tuple[str, str]]


def survey(
    inputs: Inputs, columns: PairColumns, models: Sequence[str], steps: Sequence[Mapping[str, Any]], examples: int
) -> Survey:
    """Reads the parts of a run, in order, and returns their totals and the rows to show.

    The rows to show are a random sample that is the same every time: an image's part and its row in the part follow
    from hashes of its URL (and the recipe's seed), so the first rows of the first parts are a random sample.

    Args:
        inputs: the folders plan, fetch, select and `embed-<model>`.
        columns: the columns of a pair of the run.
        models: the models' short names, in the recipe's order.
        steps: the steps of `funnel.json`.
        examples: rows to show per reason.

    Raises:
        BrokenResult: tables of a part do not belong together.
    """
    totals = Survey(similarity={model: Histogram(3) for model in models if columns.scores(model, SIMILARITY)})
    by_name = {step["name"]: step for step in steps}
    for number, rows in enumerate(side_by_side(lambda part: _read(inputs, columns, models, part), inputs.parts)):
        reasons = rows.decisions["reason"].to_numpy(zero_copy_only=False)
        kept = rows.decisions["kept"].to_numpy(zero_copy_only=False).astype(bool)
        totals.failures.add(rows.failures)
        totals.kept += int(kept.sum())
        present = [name for name in pc.unique(rows.decisions["reason"]).to_pylist() if name is not None]
        masks = {None: kept, **{name: (reasons == name) & ~kept for name in sorted(present)}}
        for reason, mask in masks.items():
            if reason is not None:
                totals.dropped[reason] += int(mask.sum())
            step = by_name.get(reason or "", {})
            if step.get("names_kept"):
                _pick_copies(totals.copies.setdefault(str(reason), []), rows, mask, examples)
            else:
                _pick(totals.examples.setdefault(reason, []), rows.part, mask, examples)
        for model, values in rows.similarity.items():
            cut = [step for step in steps if is_cut(step, model, columns)]
            stack = np.where(kept, KEPT, OTHER)
            for step in cut:
                mask = masks.get(step["name"], np.zeros_like(kept))
                stack[mask] = UNDER_THRESHOLD
                if number < CLOSE_PARTS and step["threshold"] is not None:
                    _closest(totals.above.setdefault(step["name"], []), rows.part, values, kept, examples // 2)
                    _closest(totals.below.setdefault(step["name"], []), rows.part, -values, mask, examples // 2)
            # A repeated row has no measurement of its own; rows outside the sample were seen by no step.
            own = (reasons != REPEATED) & (reasons != NOT_SAMPLED)
            totals.similarity[model].add(values[own], stack[own])
    return totals


def is_cut(step: Mapping[str, Any], model: str, columns: PairColumns) -> bool:
    """Whether a step keeps the top of this model's similarity, under any of that column's names."""
    return step["of"] in columns.scores(model, SIMILARITY)


def find_pairs(inputs: Inputs, wanted: set[bytes]) -> dict[bytes, Place]:
    """Returns the places of kept pairs by pair_id.

    Raises:
        BrokenResult: a pair is kept in no part.
    """
    places: dict[bytes, Place] = {}
    values = pa.array(sorted(wanted), pa.binary(16))

    def read(part: int) -> tuple[int, pa.Table]:
        return part, inputs["select"].table("decisions.parquet", part, ["pair_id", "kept"])

    for part, decided in side_by_side(read, inputs.parts if wanted else ()):
        hits = pc.and_(pc.is_in(decided["pair_id"], value_set=values), decided["kept"])
        for row in np.flatnonzero(hits.to_numpy(zero_copy_only=False)):
            places[decided["pair_id"][int(row)].as_py()] = Place(part, int(row))
        if len(places) == len(wanted):
            break
    if lost := wanted - places.keys():
        raise BrokenResult(
            f"{inputs['select'].path}: pair {min(lost).hex()}, named as the kept copy, is kept in no part"
        )
    return places


def _read(inputs: Inputs, columns: PairColumns, models: Sequence[str], part: int) -> _Rows:
    scores = {model: names[0] for model in models if (names := columns.scores(model, SIMILARITY))}
    names = ["kept", "reason", "duplicate_of", "duplicate_similarity", *scores.values()]
    pairs = read_columns(inputs, columns, part, names)
    similarity = {model: pairs[name].to_numpy().astype(np.float64) for model, name in scores.items()}
    images = inputs["fetch"].table("images.parquet", part, ["status", "host", "error_class"])
    failed = images.filter(pc.not_equal(images["status"], FETCHED))
    failures = Counter(
        (host or "", error or "internal")
        for host, error in zip(failed["host"].to_pylist(), failed["error_class"].to_pylist(), strict=True)
    )
    return _Rows(part, pairs, similarity, failures)


def _pick(picked: list[Place], part: int, mask: npt.NDArray[np.bool_], examples: int) -> None:
    rows = np.flatnonzero(mask)[: examples - len(picked)]
    picked.extend(Place(part, int(row)) for row in rows)


def _pick_copies(picked: list[Copy], rows: _Rows, mask: npt.NDArray[np.bool_], examples: int) -> None:
    for row in np.flatnonzero(mask)[: examples - len(picked)]:
        decision = rows.decisions.slice(int(row), 1).to_pylist()[0]
        if decision["duplicate_of"] is None:
            raise BrokenResult(f"a pair of part {rows.part} was dropped as a duplicate of none")
        picked.append(Copy(Place(rows.part, int(row)), decision["duplicate_of"], decision["duplicate_similarity"]))


def _closest(
    found: list[tuple[float, Place]], part: int, values: Floats, mask: npt.NDArray[np.bool_], examples: int
) -> None:
    """Keeps in `found` the rows with the lowest values of all parts seen so far."""
    rows = np.flatnonzero(mask & ~np.isnan(values))
    rows = rows[np.argsort(values[rows], kind="stable")[:examples]]
    found.extend((float(values[row]), Place(part, int(row))) for row in rows)
    found.sort()
    del found[examples:]
