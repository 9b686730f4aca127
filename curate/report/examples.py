"""Reads the rows that the page shows, with all their columns and a thumbnail."""

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from curate import jpeg
from curate.columns import PairColumns
from curate.columns import read as read_columns
from curate.decoding import metadata
from curate.report.survey import Place
from curate.side_by_side import side_by_side
from curate.store import Folder, Inputs
from curate.stored_images import read_some

THUMBNAIL = 160
"""The longer side of a thumbnail, in pixels."""

BUDGET = 4_500_000
"""Characters of all thumbnails of a page; further pictures are left out, and the page shows `no preview`."""

_FORMATS = ("JPEG", "PNG", "WEBP")
"""The formats that fetch stores; no other decoder is used."""


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


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
        return table, _thumbnails(inputs["fetch"], part, files)

    examples: dict[Place, Example] = {}
    parts = sorted(rows_of)
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


def _thumbnails(fetch: Folder, part: int, files: set[str]) -> dict[str, Thumbnail]:
    thumbnails = {file: thumb(data) for file, data in read_some(fetch, part, files)}
    return {file: thumbnail for file, thumbnail in thumbnails.items() if thumbnail}


def thumb(data: bytes) -> Thumbnail | None:
    """Returns a re-encoded JPEG of at most THUMBNAIL pixels a side; None for an undecodable or many-scan image."""
    if metadata.excess(data):
        return None
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            if opened.format == "JPEG" and jpeg.count_scans(data) > jpeg.allowed_scans(opened.width * opened.height):
                # fetch refuses such JPEGs; versions before 0.1.0 stored them.
                return None
            opened.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
            picture = opened.convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        # Pillow's decoders report broken files by each of these.
        return None
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=72, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()
    return Thumbnail(uri, picture.width, picture.height)
