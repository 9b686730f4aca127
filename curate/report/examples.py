"""Reads the rows that the page shows, with all their columns and a thumbnail."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from curate.columns import PairColumns
from curate.columns import read as read_columns
from curate.decoding.pool import Decoders, Lost
from curate.report import thumbnail
from curate.report.survey import Place
from curate.report.thumbnail import Thumbnail
from curate.side_by_side import side_by_side
from curate.store import Folder, Inputs
from curate.stored_images import read_some

BUDGET = 4_500_000
"""Characters of all thumbnails of a page; further pictures are left out, and the page shows `no preview`."""


@dataclass(frozen=True)
class Example:
    """A row to show: every column that a predicate could see, and the picture where there is one."""

    values: Mapping[str, Any]
    thumbnail: Thumbnail | None


def load(inputs: Inputs, columns: PairColumns, places: Iterable[Place], budget: int = BUDGET) -> dict[Place, Example]:
    """Reads the rows at these places, part by part.

    Args:
        inputs: the folders plan, fetch, pixels, `embed-<model>` and `signals-<scorer>`.
        columns: the columns of a pair of the run.
        places: the rows to read; the first ones get a thumbnail where the budget is too small for all.
        budget: characters of all data URIs together.
    """
    wanted = list(dict.fromkeys(places))
    rows_of: defaultdict[int, list[int]] = defaultdict(list)
    for place in wanted:
        rows_of[place.part].append(place.row)

    def read(part: int) -> tuple[pa.Table, dict[str, Thumbnail]]:
        table = read_columns(inputs, columns, part, columns.types(), rows_of[part])
        files = {file for file in table["file"].to_pylist() if file}
        return table, _thumbnails(inputs["fetch"], part, files, decoders)

    examples: dict[Place, Example] = {}
    parts = sorted(rows_of)
    # One process: a page has some dozens of thumbnails, which take less time than the start of a further process.
    with Decoders(thumbnail.NAME, 1) as decoders:
        if parts:
            decoders.start()
        for part, (table, thumbnails) in zip(parts, side_by_side(read, parts), strict=True):
            for row, values in zip(rows_of[part], table.to_pylist(), strict=True):
                examples[Place(part, row)] = Example(values, thumbnails.get(values["file"]))
    for place in wanted:
        example = examples[place]
        if example.thumbnail:
            budget -= len(example.thumbnail.uri)
            if budget < 0:
                examples[place] = replace(example, thumbnail=None)
    return examples


def _thumbnails(fetch: Folder, part: int, files: set[str], decoders: Decoders) -> dict[str, Thumbnail]:
    stored = dict(read_some(fetch, part, files))
    made = decoders.each(b"", list(stored.values()), thumbnail.read)
    return {file: one for file, one in zip(stored, made, strict=True) if one and not isinstance(one, Lost)}
