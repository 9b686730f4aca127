"""Reads a source of samples: finds its places, decides on the columns, and yields the rows of the plan.

A sample is an image with its caption and a json, in a tar (`curate.plan.shards`) or a folder (`curate.plan.folders`).
The places are read once, concurrently, each into a file on the local disk, because only the end of a tar shows which
keys it holds twice.
"""

import contextlib
import hashlib
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import schema
from curate.errors import SourceError
from curate.plan import folders, shards
from curate.plan.cells import JsonValues
from curate.plan.formats.contract import readable
from curate.plan.notes import Notes
from curate.plan.places import AT_ONCE, Place, encoded, find
from curate.plan.rows import NO_CAPTION, count_without
from curate.plan.shards import Sample
from curate.plan.source import MOST_PASSED, Columns, Passed, Source, passed_through

_LOOKED_AT = 32
_HEAD = 100
"""Columns and their types come from the first `_HEAD` samples of up to `_LOOKED_AT` places, evenly spread."""

_CHUNK = 2048
_READ_AHEAD = 1 << 20
_VALUES = JsonValues()
_AGAIN = "ambiguous: its key comes again elsewhere in the tar"


@dataclass(frozen=True)
class SampleLayout:
    """The places and columns of a source of samples.

    Args:
        places: tars and folders, in the order in which their samples are numbered.
        url: the json's key of the URL.
        caption: the json's key of the caption, for samples without a txt; None where the recipe wants no captions.
        uid: the json's key of the pair id.
        kept: the json's keys passed through.
    """

    places: tuple[Place, ...]
    url: str
    caption: str | None
    uid: str
    kept: tuple[Passed, ...]

    @property
    def plan(self) -> pa.Schema:
        """The plan table's schema."""
        passed = [pa.field(column.to, column.type) for column in self.kept]
        return pa.schema([*schema.PLAN, *passed, *schema.SAMPLE])


def look(source: Mapping[str, Any], endpoint: str | None = None) -> SampleLayout:
    """Finds the places and decides on the columns; only the first samples of some places are read.

    Raises:
        SourceError: a place cannot be read, is torn where it was read, or there are no samples.
    """
    asked = Source.of(source)
    # Unless the recipe names a key, DataComp's is used.
    asked = replace(asked, uid=asked.uid or "uid")
    places = find(asked.paths, endpoint)
    step = max(1, -(-len(places) // _LOOKED_AT))
    looked_at = places[::step]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        heads = list(pool.map(_head, looked_at))
    if not any(heads) and len(looked_at) == len(places):
        raise SourceError(f"there are no samples in {_named(places)}")
    typed = []
    for place, head in zip(looked_at, heads, strict=True):
        about = [_about(sample) for sample in head]
        names = list(dict.fromkeys(name for json in about for name in json))
        types = {name: _VALUES.inferred([json.get(name) for json in about]) for name in names}
        typed.append(Columns(place.path, types, typed=False))
    kept = passed_through(asked, typed)
    if len(kept) > MOST_PASSED:
        raise SourceError(
            f"the jsons of {_named(places)} have more than {MOST_PASSED:,} different keys; "
            "name those to pass through with source.keep_columns"
        )
    caption = None if asked.caption is None else str(asked.caption)
    return SampleLayout(tuple(places), str(asked.url), caption, str(asked.uid), kept)


@dataclass
class Scan:
    """The samples of all places, on the local disk.

    Args:
        layout: of the source.
        folder: an empty local folder.
    """

    layout: SampleLayout
    folder: Path
    notes: Notes = field(default_factory=Notes)
    rows: int = 0

    def __post_init__(self) -> None:
        """Reads every place.

        Raises:
            SourceError: a place cannot be read or is broken, or the members of its samples are not in order.
        """
        with ThreadPoolExecutor(AT_ONCE) as pool:
            read = list(pool.map(self._read, range(len(self.layout.places))))
        self._again = [again for _, again, _ in read]
        for count, _, notes in read:
            self.rows += count
            self.notes.merge(notes)

    def tables(self) -> Iterator[pa.Table]:
        """All rows in order, with the columns of `SampleLayout.plan` but `repeated`."""
        names = [name for name in self.layout.plan.names if name != "repeated"]
        start = 0
        for number, again in enumerate(self._again):
            path, samples = self._file(number), 0
            with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as stream:
                for batch in stream:
                    table = pa.Table.from_batches([batch])
                    in_place = table["source_row"]
                    if again:
                        table = _marked(table, pc.is_in(in_place, pa.array(sorted(again), pa.int64())))
                    numbered = pc.add(in_place, start)
                    yield table.set_column(table.column_names.index("source_row"), "source_row", numbered).select(names)
                    samples = in_place[-1].as_py() + 1
            start += samples
            path.unlink()

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.arrow"

    def _read(self, number: int) -> tuple[int, set[int], Notes]:
        """Writes a place's rows to its file, a row for each caption of a sample.

        Returns:
            The number of rows, the numbers of the samples whose key occurs again, and notes.
        """
        place, notes = self.layout.places[number], Notes()
        shape = pa.schema([column for column in self.layout.plan if column.name != "repeated"])
        first: dict[bytes, int] = {}
        again: set[int] = set()
        samples = rows = 0
        found = _samples(place)
        with pa.OSFile(str(self._file(number)), "wb") as sink, pa.ipc.new_stream(sink, shape) as stream:
            while chunk := list(islice(found, _CHUNK)):
                table = self._table(number, chunk, samples, notes).select(shape.names).cast(shape)
                stream.write_table(table)
                rows += table.num_rows
                for sample in chunk:
                    digest = hashlib.blake2b(encoded(sample.key).encode(), digest_size=16).digest()
                    if (before := first.setdefault(digest, samples)) != samples:
                        again |= {before, samples}
                    samples += 1
        if 2 * len(again) > samples > 2:
            raise SourceError(
                f"{place.path}: its members are not in order: {len(again):,} of {samples:,} samples have a key that "
                "occurs again; pack it again with its members sorted by name (tar --sort=name)"
            )
        counts = {"samples whose key occurs again are ambiguous": len(again), "holds no samples": int(not samples)}
        if place.files is not None:
            counts["txt and json files without an image of the same name were left out"] = folders.left_out(place)
        notes.add(counts, place.path)
        return rows, again, notes

    def _table(self, number: int, chunk: Sequence[Sample], start: int, notes: Notes) -> pa.Table:
        """The rows of some samples, the first of which is number `start` of its place."""
        layout, place = self.layout, self.layout.places[number]
        about = [_about(sample) for sample in chunk]
        urls = [self._url(place, sample, json) for sample, json in zip(chunk, about, strict=True)]
        captions: list[Any] = [None] * len(chunk)
        if layout.caption is not None:
            captions = [
                sample.texts[0] if sample.texts else json.get(layout.caption)
                for sample, json in zip(chunk, about, strict=True)
            ]
        url = _VALUES.text(urls)
        caption = _VALUES.captions(captions).shortened()
        if layout.caption is not None:
            notes.add({**caption.unusual, NO_CAPTION: count_without(caption.texts)}, place.path)
        table: dict[str, Any] = {
            "image_id": pa.array([schema.image_id(text) for text in url.to_pylist()], schema.ID),
            "url": url,
            "source_row": pa.array(range(start, start + len(chunk)), pa.int64()),
        }
        for column in layout.kept:
            values = [json.get(column.name) for json in about]
            passed = _VALUES.column(values, column.type)
            misfits = _VALUES.misfits(values, passed)
            notes.add({f"{column.to}: values that do not parse as {column.type} became null": misfits})
            table[column.to] = passed
        unreadable = sum(sample.unreadable for sample in chunk)
        notes.add({"txt and json members that cannot be read count as missing": unreadable}, place.path)
        faults = [sample.fault() for sample in chunk]
        images = [
            (None, None, None) if fault else sample.images[0] for sample, fault in zip(chunk, faults, strict=True)
        ]
        member = [None if name is None else encoded(name) for name, _, _ in images]
        where = (
            pa.array([number] * len(chunk), pa.int32()),
            pa.array(member, pa.string()),
            pa.array([offset for _, offset, _ in images], pa.int64()),
            pa.array([size for _, _, size in images], pa.int64()),
            pa.array(faults, pa.string()),
        )
        found = pa.table({**table, **dict(zip(schema.SAMPLE.names, where, strict=True))})
        rows = np.arange(len(chunk)) if caption.rows is None else caption.rows
        # A uid names one pair, so the pairs of a sample with several captions are named by URL and caption.
        pairs_of = np.bincount(rows)
        uids = [_uid(json.get(layout.uid)) if pairs_of[row] == 1 else None for row, json in enumerate(about)]
        found = found.take(pa.array(rows)).append_column("caption", caption.texts)
        named = zip(rows.tolist(), found["url"].to_pylist(), caption.texts.to_pylist(), strict=True)
        pairs = [uids[row] or schema.pair_id(of, said) for row, of, said in named]
        return found.append_column("pair_id", pa.array(pairs, schema.ID))

    def _url(self, place: Place, sample: Sample, json: Mapping[str, Any]) -> str:
        url = json.get(self.layout.url)
        return url if isinstance(url, str) and url.strip() else place.sample_name(sample.key)


def _samples(place: Place) -> Generator[Sample, None, None]:
    if place.files is not None:
        yield from folders.samples(place)
        return
    with readable(place.path), place.store.open("", _READ_AHEAD) as opened:
        yield from shards.samples(opened, place.path)


def _head(place: Place) -> list[Sample]:
    with contextlib.closing(_samples(place)) as found:
        return list(islice(found, _HEAD))


def _about(sample: Sample) -> dict[str, Any]:
    return sample.about[0] if sample.about else {}


def _uid(value: Any) -> bytes | None:
    """The pair id that the source gives; None where the value is not 32 hex digits."""
    fits = isinstance(value, str) and re.fullmatch(r"[0-9a-fA-F]{32}", value)
    return bytes.fromhex(value) if fits else None


def _marked(table: pa.Table, again: pa.ChunkedArray) -> pa.Table:
    """Marks the rows for which `again` is true as faulty, because their key occurs again."""
    blank = {"sample_member", "sample_offset", "sample_bytes"}
    for number, column in enumerate(table.schema):
        if column.name in blank:
            value = pa.scalar(None, column.type)
        elif column.name == "sample_fault":
            value = pa.scalar(_AGAIN)
        else:
            continue
        table = table.set_column(number, column, pc.if_else(again, value, table[column.name]))
    return table


def _named(places: Sequence[Place]) -> str:
    return places[0].path if len(places) == 1 else f"{len(places):,} places, {places[0].path} the first"
