"""Reads a list's rows as the plan stores them: identified, numbered, with their columns passed through."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from curate import schema
from curate.errors import SourceError
from curate.plan.cells import Captions
from curate.plan.formats.contract import ListFile
from curate.plan.notes import Notes
from curate.plan.source import Layout

NO_CAPTION = "rows without a caption are dropped as no_caption; for a source without captions, say source.caption: null"
UID = r"^[0-9a-fA-F]{32}$"


def count(layout: Layout) -> int:
    """The number of rows that the plan will have: one for each caption of a row, and one for a row without captions.

    Raises:
        SourceError: a file cannot be read.
    """
    total = 0
    for file in layout.files:
        if layout.caption is not None and file.path in layout.several:
            chunks = file.format.chunks(file, layout.dialect, [layout.caption])
            total += sum(len(file.format.values.captions(chunk.columns[layout.caption]).texts) for chunk in chunks)
        else:
            total += file.format.count(file, layout.dialect)
    return total


def count_without(captions: pa.Array) -> int:
    """The number of empty captions."""
    return int(pc.sum(pc.invert(schema.has_caption(captions)), min_count=0).as_py())


def rows(layout: Layout, notes: Notes) -> Iterator[pa.Table]:
    """The rows of all files in order, a row for each caption, in tables that cover `CHUNK_ROWS` rows of a list.

    Args:
        layout: the files and columns.
        notes: receives the counts of cells and lines that were changed or left out.

    Yields:
        Tables with the columns of `layout.plan` but `repeated`. Rows of several captions share their `source_row`.

    Raises:
        SourceError: a file cannot be read, a uid is not 32 hex digits, or one row has a uid and several captions.
    """
    start = 0
    for file in layout.files:
        in_file = 0
        for chunk_rows, read in _read(file, layout, notes):
            numbers = pc.add(read["row"], in_file)
            urls, captions = read["url"].to_pylist(), read["caption"].to_pylist()
            if layout.uid is not None and "uid" in read.column_names:
                pairs = _from_uids(read["uid"], numbers, file, layout)
            else:
                pairs = [schema.pair_id(url, text) for url, text in zip(urls, captions, strict=True)]
            yield pa.table(
                [
                    pa.array(pairs, schema.ID),
                    pa.array([schema.image_id(url) for url in urls], schema.ID),
                    read["url"],
                    read["caption"],
                    pc.add(numbers, start),
                    *(read[column.to] for column in layout.kept),
                ],
                names=[name for name in layout.plan.names if name != "repeated"],
            )
            in_file += chunk_rows
        start += in_file


def _read(file: ListFile, layout: Layout, notes: Notes) -> Iterator[tuple[int, pa.Table]]:
    """Yields for each chunk of a list its number of rows, and a table with a row for each caption.

    The table's columns: `row` (in the chunk), `url`, `caption`, `uid` where the list has one, and those passed through.
    """
    values, only_urls = file.format.values, file.format.only_urls
    url = "url" if only_urls else layout.url
    wanted = [url, layout.caption, layout.uid, *(column.name for column in layout.kept)]
    for chunk in file.format.chunks(file, layout.dialect, [name for name in dict.fromkeys(wanted) if name is not None]):
        notes.add(chunk.unusual, file.path)
        # The one column of such a list is the URL, whatever name the recipe gives for the other lists.
        cells = {"url": chunk.columns[url]} if only_urls else chunk.columns
        columns = {"row": pa.array(range(chunk.rows), pa.int64()), "url": values.text(cells[url])}
        if layout.uid is not None and layout.uid in cells:
            columns["uid"] = values.text(cells[layout.uid])
        for column in layout.kept:
            if column.name in cells:
                passed = values.column(cells[column.name], column.type)
                misfits = values.misfits(cells[column.name], passed)
                notes.add({f"{column.to}: cells that do not parse as {column.type} became null": misfits})
            else:
                passed = pa.nulls(chunk.rows, column.type)
            columns[column.to] = passed
        table = pa.table(columns)
        captions = Captions(pa.array([""] * chunk.rows, pa.string()))
        if layout.caption is not None:
            captions = values.captions(cells[layout.caption]).shortened()
            notes.add({**captions.unusual, NO_CAPTION: count_without(captions.texts)}, file.path)
        if captions.rows is not None:
            table = table.take(pa.array(captions.rows))
        yield chunk.rows, table.append_column("caption", captions.texts)


def _from_uids(uids: pa.ChunkedArray, numbers: pa.ChunkedArray, file: ListFile, layout: Layout) -> list[bytes]:
    """The pair ids that the source gives; `numbers`, the rows' numbers in the file, are for errors."""
    several = pc.equal(numbers[1:], numbers[:-1])
    if pc.any(several).as_py():
        row = pc.index(several, True).as_py()
        raise SourceError(
            f"{file.path}: row {numbers[row]}: {layout.uid} names one pair, and the row has "
            "several captions; leave source.uid out to name pairs by url and caption"
        )
    good = pc.match_substring_regex(uids, UID)
    if not pc.all(good).as_py():
        row = pc.index(good, False).as_py()
        raise SourceError(
            f"{file.path}: row {numbers[row]}: {layout.uid} is {uids[row].as_py()!r}, not 32 hex digits; "
            "leave source.uid out to name pairs by url and caption"
        )
    return [bytes.fromhex(uid) for uid in uids.to_pylist()]
