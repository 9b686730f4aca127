"""A source's rows as the plan has them: identified, numbered, with their columns passed through."""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from curate import schema
from curate.errors import SourceError
from curate.plan import cells, formats
from curate.plan.formats import ListFile
from curate.plan.source import Layout, Passed

UID = r"^[0-9a-fA-F]{32}$"


def rows(layout: Layout, notes: Counter[str]) -> Iterator[pa.Table]:
    """The rows of all files in order, in tables of at most `formats.CHUNK_ROWS` rows.

    Args:
        layout: the files and columns.
        notes: is counted up for cells and lines that could not be taken as they are.

    Yields:
        Tables with the columns of `layout.plan` but `repeated`.

    Raises:
        SourceError: a file cannot be read, or a uid is not 32 hex digits.
    """
    start = 0
    for file in layout.files:
        in_file = 0
        for read in _read(file, layout, notes):
            count = read.num_rows
            urls, captions = read["url"].to_pylist(), read["caption"].to_pylist()
            if layout.uid is not None and "uid" in read.column_names:
                pairs = _from_uids(read["uid"], file, layout.uid, in_file)
            else:
                pairs = [schema.pair_id(url, text) for url, text in zip(urls, captions, strict=True)]
            yield pa.table(
                [
                    pa.array(pairs, schema.ID),
                    pa.array([schema.image_id(url) for url in urls], schema.ID),
                    read["url"],
                    read["caption"],
                    pa.array(range(start, start + count), pa.int64()),
                    *(read[column.to] for column in layout.kept),
                ],
                names=[name for name in layout.plan.names if name != "repeated"],
            )
            start += count
            in_file += count


def _read(file: ListFile, layout: Layout, notes: Counter[str]) -> Iterator[pa.Table]:
    return _parquet(file, layout, notes) if file.format == "parquet" else _listed(file, layout, notes)


def _parquet(file: ListFile, layout: Layout, notes: Counter[str]) -> Iterator[pa.Table]:
    with formats.parquet(file) as opened:
        there = opened.schema_arrow.names
        wanted = [layout.url, layout.caption, layout.uid, *(column.name for column in layout.kept)]
        columns = list(dict.fromkeys(name for name in wanted if name is not None and name in there))
        for batch in formats.batches(opened, columns):
            table = {"url": cells.text(batch[layout.url]), "caption": cells.text(batch[layout.caption])}
            if layout.uid is not None:
                table["uid"] = cells.text(batch[layout.uid])
            for column in layout.kept:
                if column.name in there:
                    passed = cells.fitted(cells.plain(batch[column.name]), column.type)
                    _note(notes, column, passed.null_count - batch[column.name].null_count)
                else:
                    passed = pa.nulls(len(batch), column.type)
                table[column.to] = passed
            yield pa.table(table)


def _listed(file: ListFile, layout: Layout, notes: Counter[str]) -> Iterator[pa.Table]:
    kind = file.format
    # The one column of a txt list is its URL, however the recipe names the others'.
    url = "url" if kind == "txt" else layout.url
    wanted = [url, layout.caption, *([layout.uid] if layout.uid else []), *(column.name for column in layout.kept)]
    for chunk in formats.chunks(file, layout.header, wanted if kind != "txt" else None):
        if chunk.unreadable:
            notes[f"{file.path}: lines that are not as the others were filled up, cut or left empty"] += (
                chunk.unreadable
            )
        blank = [None] * chunk.rows
        captions = blank if kind == "txt" else chunk.columns[layout.caption]
        table = {
            "url": cells.json_text(chunk.columns[url], strings_only=True),
            "caption": cells.json_text(captions, strings_only=False),
        }
        if layout.uid is not None and kind != "txt":
            table["uid"] = cells.json_text(chunk.columns[layout.uid], strings_only=True)
        for column in layout.kept:
            values = blank if kind == "txt" else chunk.columns[column.name]
            passed = cells.typed(values, column.type, kind)
            _note(notes, column, cells.misfits(values, passed, kind))
            table[column.to] = passed
        yield pa.table(table)


def _note(notes: Counter[str], column: Passed, misfits: int) -> None:
    if misfits:
        notes[f"{column.to}: cells that are no {column.type} became null"] += misfits


def _from_uids(uids: pa.ChunkedArray, file: ListFile, name: str, start: int) -> list[bytes]:
    good = pc.match_substring_regex(uids, UID)
    if not pc.all(good).as_py():
        row = pc.index(good, False).as_py()
        raise SourceError(
            f"{file.path}: row {start + row}: {name} is {uids[row].as_py()!r}, not 32 hex digits; "
            "leave source.uid out to name pairs by url and caption"
        )
    return [bytes.fromhex(uid) for uid in uids.to_pylist()]
