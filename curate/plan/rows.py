"""A source's rows as the plan has them: identified, numbered, with their columns passed through."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from curate import schema
from curate.errors import SourceError
from curate.plan.cells import Captions
from curate.plan.formats.contract import ListFile
from curate.plan.notes import Notes
from curate.plan.source import Layout

NO_CAPTION = "rows without a caption drop as no_caption; where a source has none, say source.caption: null"
UID = r"^[0-9a-fA-F]{32}$"


def count(layout: Layout) -> int:
    """How many rows the plan will have: those of the lists, and one more for every further caption of a row.

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
    """How many captions are empty."""
    return int(pc.sum(pc.invert(schema.has_caption(captions)), min_count=0).as_py())


def rows(layout: Layout, notes: Notes) -> Iterator[pa.Table]:
    """The rows of all files in order, in tables of `CHUNK_ROWS` rows of a list; of a row with several captions several.

    Args:
        layout: the files and columns.
        notes: is counted up for cells and lines that could not be taken as they are.

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
    """A list's chunks: how many rows one has, and a row for each caption.

    Its columns: `row` (in the chunk), `url`, `caption`, `uid` where the list has one, and those passed through.
    """
    values, only_urls = file.format.values, file.format.only_urls
    url = "url" if only_urls else layout.url
    wanted = [url, layout.caption, layout.uid, *(column.name for column in layout.kept)]
    for chunk in file.format.chunks(file, layout.dialect, [name for name in dict.fromkeys(wanted) if name is not None]):
        notes.add(chunk.unusual, file.path)
        # The one column of such a list is its URL, however the recipe names the others'.
        cells = {"url": chunk.columns[url]} if only_urls else chunk.columns
        columns = {"row": pa.array(range(chunk.rows), pa.int64()), "url": values.text(cells[url])}
        if layout.uid is not None and layout.uid in cells:
            columns["uid"] = values.text(cells[layout.uid])
        for column in layout.kept:
            if column.name in cells:
                passed = values.column(cells[column.name], column.type)
                misfits = values.misfits(cells[column.name], passed)
                notes.add({f"{column.to}: cells that are no {column.type} became null": misfits})
            else:
                passed = pa.nulls(chunk.rows, column.type)
            columns[column.to] = passed
        table = pa.table(columns)
        captions = Captions(pa.array([""] * chunk.rows, pa.string()))
        if layout.caption is not None:
            captions = values.captions(cells[layout.caption])
            notes.add({**captions.unusual, NO_CAPTION: count_without(captions.texts)}, file.path)
        if captions.rows is not None:
            table = table.take(pa.array(captions.rows))
        yield chunk.rows, table.append_column("caption", captions.texts)


def _from_uids(uids: pa.ChunkedArray, numbers: pa.ChunkedArray, file: ListFile, layout: Layout) -> list[bytes]:
    """The uids of rows with these numbers in their file."""
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
