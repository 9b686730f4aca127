"""A source's rows as the plan has them: identified, numbered, with their columns passed through."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from curate import schema
from curate.errors import SourceError
from curate.plan.formats.contract import ListFile
from curate.plan.notes import Notes
from curate.plan.source import Layout

UID = r"^[0-9a-fA-F]{32}$"


def rows(layout: Layout, notes: Notes) -> Iterator[pa.Table]:
    """The rows of all files in order, in tables of at most `CHUNK_ROWS` rows.

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


def _read(file: ListFile, layout: Layout, notes: Notes) -> Iterator[pa.Table]:
    """A list's rows with their text: `url`, `caption`, `uid` where it has one, and the columns passed through."""
    values, only_urls = file.format.values, file.format.only_urls
    url = "url" if only_urls else layout.url
    wanted = [url, layout.caption, layout.uid, *(column.name for column in layout.kept)]
    for chunk in file.format.chunks(file, layout.dialect, [name for name in dict.fromkeys(wanted) if name is not None]):
        notes.add(chunk.unusual, file.path)
        # The one column of such a list is its URL, however the recipe names the others'.
        cells = {"url": chunk.columns[url]} if only_urls else chunk.columns
        table = {"url": values.text(cells[url])}
        table["caption"] = pa.array([""] * chunk.rows) if only_urls else values.captions(cells[layout.caption])
        if layout.uid is not None and layout.uid in cells:
            table["uid"] = values.text(cells[layout.uid])
        for column in layout.kept:
            if column.name in cells:
                passed = values.column(cells[column.name], column.type)
                misfits = values.misfits(cells[column.name], passed)
                notes.add({f"{column.to}: cells that are no {column.type} became null": misfits})
            else:
                passed = pa.nulls(chunk.rows, column.type)
            table[column.to] = passed
        yield pa.table(table)


def _from_uids(uids: pa.ChunkedArray, file: ListFile, name: str, start: int) -> list[bytes]:
    good = pc.match_substring_regex(uids, UID)
    if not pc.all(good).as_py():
        row = pc.index(good, False).as_py()
        raise SourceError(
            f"{file.path}: row {start + row}: {name} is {uids[row].as_py()!r}, not 32 hex digits; "
            "leave source.uid out to name pairs by url and caption"
        )
    return [bytes.fromhex(uid) for uid in uids.to_pylist()]
