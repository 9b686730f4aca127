"""Reads a list's rows as the plan stores them: identified, numbered, with their columns passed through."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curate import schema
from curate.errors import SourceError
from curate.plan.cells import LONG_CELL, LONG_URL, Captions, shortened
from curate.plan.digests import in_hex
from curate.plan.formats.contract import ListFile, Piece
from curate.plan.notes import Notes
from curate.plan.source import Layout

NO_CAPTION = "rows without a caption are dropped as no_caption; for a source without captions, say source.caption: null"
UID = r"^[0-9a-fA-F]{32}$"


@dataclass(frozen=True)
class Located:
    """A piece of a list in its source.

    Args:
        file: the number of the list.
        in_file: the rows of the list before the piece.
        in_source: the rows of the source before the piece.
        piece: the piece.
    """

    file: int
    in_file: int
    in_source: int
    piece: Piece


def cut(layout: Layout, number: int) -> list[Piece]:
    """Cuts one list of a source into pieces, and counts their rows.

    Raises:
        SourceError: the file cannot be read.
    """
    file = layout.files[number]
    return list(file.format.cut(file, layout.dialect, layout.caption if file.path in layout.several else None))


def located(pieces: Iterable[Sequence[Piece]]) -> list[Located]:
    """The pieces of a source in order, from those of each list."""
    found: list[Located] = []
    in_source = 0
    for number, of_file in enumerate(pieces):
        in_file = 0
        for piece in of_file:
            found.append(Located(number, in_file, in_source, piece))
            in_file += piece.rows
            in_source += piece.rows
    return found


def count_without(captions: pa.Array) -> int:
    """The number of empty captions."""
    return int(pc.sum(pc.invert(schema.has_caption(captions)), min_count=0).as_py())


def rows(layout: Layout, pieces: Iterable[Located], notes: Notes) -> Iterator[pa.Table]:
    """The rows of some pieces in order, a row for each caption, in tables that cover `CHUNK_ROWS` rows of a list.

    Args:
        layout: the files and columns.
        pieces: of the files.
        notes: receives the counts of cells and lines that were changed or left out.

    Yields:
        Tables with the columns of `layout.plan` but `repeated`. Rows of several captions share their `source_row`.

    Raises:
        SourceError: a file cannot be read or has changed since it was cut, a uid is not 32 hex digits, or one row has a
            uid and several captions.
    """
    for at in pieces:
        file, taken, pairs_taken = layout.files[at.file], 0, 0
        for chunk_rows, read in _read(file, at.piece, layout, notes):
            numbers = pc.add(read["row"], at.in_file + taken)
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
                    pc.add(read["row"], at.in_source + taken),
                    *(read[column.to] for column in layout.kept),
                    *(read[f"expected_{kind}"] for kind in layout.digests),
                ],
                names=[name for name in layout.plan.names if name != "repeated"],
            )
            taken += chunk_rows
            pairs_taken += len(pairs)
        if (taken, pairs_taken) != (at.piece.rows, at.piece.pairs):
            raise SourceError(f"{file.path} changed while it was read: {at.piece.rows} rows, then {taken}")


def _read(file: ListFile, piece: Piece, layout: Layout, notes: Notes) -> Iterator[tuple[int, pa.Table]]:
    """Yields for each chunk of a piece its number of rows, and a table with a row for each caption.

    The table's columns: `row` (in the chunk), `url`, `caption`, `uid` where the list has one, and those passed through.
    """
    values, only_urls = file.format.values, file.format.only_urls
    url = "url" if only_urls else layout.url
    wanted = [url, layout.caption, layout.uid, *(column.name for column in layout.kept), *layout.digests.values()]
    names = [name for name in dict.fromkeys(wanted) if name is not None]
    for chunk in file.format.read(file, layout.dialect, names, piece):
        notes.add(chunk.unusual, file.path)
        # The one column of such a list is the URL, whatever name the recipe gives for the other lists.
        cells = {"url": chunk.columns[url]} if only_urls else chunk.columns
        urls, longer = shortened(values.text(cells[url]))
        notes.add({LONG_URL: longer}, file.path)
        columns = {"row": pa.array(range(chunk.rows), pa.int64()), "url": urls}
        if layout.uid is not None and layout.uid in cells:
            columns["uid"] = values.text(cells[layout.uid])
        for column in layout.kept:
            if column.name in cells:
                passed = values.column(cells[column.name], column.type)
                misfits = values.misfits(cells[column.name], passed)
                passed, longer = shortened(passed)
                notes.add(
                    {
                        f"{column.to}: cells that do not parse as {column.type} became null": misfits,
                        f"{column.to}: {LONG_CELL}": longer,
                    }
                )
            else:
                passed = pa.nulls(chunk.rows, column.type)
            columns[column.to] = passed
        for kind, name in layout.digests.items():
            texts = values.text(cells[name]) if name in cells else pa.nulls(chunk.rows, pa.string())
            columns[f"expected_{kind}"], unfit = in_hex(texts, kind)
            notes.add({f"source.{kind}: cells that are not a {kind} in hex or base64 expect nothing": unfit})
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
