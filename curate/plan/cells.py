"""Cells to columns: the types of lists that state none, and text as it is identified and stored.

Lists in csv and tsv hold text alone. A column of numbers is read as one when the first chunk's cells are all
numbers and none would change in the reading: `007` and numbers of more than 18 digits are names, and stay
text. A later cell that does not fit is null, and the pass notes how many there were.
"""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.schema import clean_caption

INTEGER = r"^[+-]?(0|[1-9][0-9]{0,17})$"
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
NAME = r"^[+-]?(0[0-9]|[0-9]{19})"
"""What looks like a number and would not come back as it was."""
NO_NUMBER = pa.array(["", "NA", "N/A", "NULL", "Null", "null", "None", "nan", "NaN", "NAN"])
"""Cells that are null in a column of numbers."""

_INT64 = 1 << 63


def inferred(cells: Sequence[Any], list_format: str) -> pa.DataType:
    """The type for a column of a list without types, from its first cells."""
    if list_format == "jsonl":
        kinds = {type(cell) for cell in cells if cell is not None}
        if kinds == {bool}:
            return pa.bool_()
        if kinds == {int} and all(-_INT64 <= cell < _INT64 for cell in cells if cell is not None):
            return pa.int64()
        return pa.float64() if kinds and kinds <= {int, float} else pa.string()
    text = pa.array(cells, pa.string())
    text = text.filter(pc.invert(pc.is_in(text, NO_NUMBER))).drop_null()
    if not len(text) or pc.any(pc.match_substring_regex(text, NAME)).as_py():
        return pa.string()
    for pattern, kind in ((INTEGER, pa.int64()), (NUMBER, pa.float64())):
        if pc.all(pc.match_substring_regex(text, pattern)).as_py():
            return kind
    return pa.string()


def typed(cells: Sequence[Any], kind: pa.DataType, list_format: str) -> pa.Array:
    """Cells of a list without types as a column of a type; null where a cell does not fit."""
    if list_format == "jsonl":
        return _from_json(cells, kind)
    text = pa.array(cells, pa.string())
    if pa.types.is_string(kind):
        return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        pattern = INTEGER if pa.types.is_integer(kind) else NUMBER
        text = pc.if_else(pc.match_substring_regex(text, pattern), text, pa.scalar(None, pa.string()))
        # Arrow's parser knows no plus sign.
        text = pc.replace_substring_regex(text, r"^\+", "")
    return fitted(text, kind)


def misfits(cells: Sequence[Any], column: pa.Array, list_format: str) -> int:
    """How many of the cells that `typed` made a column of became null though they held something."""
    if pa.types.is_string(column.type):
        return 0
    held = sum(cell is not None for cell in cells)
    if list_format != "jsonl":
        held -= pc.sum(pc.is_in(pa.array(cells, pa.string()), NO_NUMBER), min_count=0).as_py()
    return int(held - (len(column) - column.null_count))


def fitted(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column cast to a type; cell by cell where the column does not go as a whole, null where none fits."""
    if column.type == kind:
        return column
    try:
        return column.cast(kind)
    except pa.ArrowException:
        pass
    cells = []
    for cell in column:
        try:
            cells.append(cell.cast(kind).as_py())
        except pa.ArrowException:
            cells.append(None)
    return pa.array(cells, kind)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """A type without its encoding: what a plan's part stores, and every reader understands."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if _is_text(kind) or pa.types.is_null(kind):
        return pa.string()
    return pa.binary() if _is_bytes(kind) else kind


def plain(column: pa.Array) -> pa.Array:
    """A column without its encoding, its text valid.

    Bytes that are no UTF-8, which parquet's readers do not check, become U+FFFD.
    """
    if pa.types.is_dictionary(column.type):
        return plain(column.dictionary_decode())
    if isinstance(column, pa.ExtensionArray):
        return plain(column.storage)
    return _decoded(column.cast(pa.large_binary())) if _is_text(column.type) else column


def text(column: pa.Array) -> pa.Array:
    """A column of any plain type as text, never null: as it is identified and stored."""
    column = plain(column)
    column = _decoded(column) if _is_bytes(column.type) else column.cast(pa.string())
    return column.fill_null("")


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _decoded(column: pa.Array) -> pa.Array:
    try:
        return column.cast(pa.string())
    except pa.ArrowException:
        cells = column.to_pylist()
        return pa.array([None if cell is None else cell.decode("utf-8", "replace") for cell in cells], pa.string())


def json_text(cells: Sequence[Any], strings_only: bool) -> pa.Array:
    """JSON values as text, never null: lone surrogates become U+FFFD.

    Args:
        cells: values of any JSON type.
        strings_only: whether a value that is no string becomes '' (a URL), or its JSON text (a caption).
    """
    strings = [
        cell if isinstance(cell, str) else "" if cell is None or strings_only else _dumped(cell) for cell in cells
    ]
    return _strings(strings)


def _from_json(cells: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        return _strings([cell if cell is None or isinstance(cell, str) else _dumped(cell) for cell in cells])
    if pa.types.is_boolean(kind):
        return pa.array([cell if isinstance(cell, bool) else None for cell in cells], kind)
    numbers = [cell if isinstance(cell, int | float) and not isinstance(cell, bool) else None for cell in cells]
    if pa.types.is_integer(kind):
        whole = [cell if isinstance(cell, int) and -_INT64 <= cell < _INT64 else None for cell in numbers]
        return fitted(pa.array(whole, pa.int64()), kind)
    if pa.types.is_floating(kind):
        return fitted(pa.array([_float(cell) for cell in numbers], pa.float64()), kind)
    # A parquet list beside this one gave the column a type of its own, such as a date.
    return fitted(_from_json(cells, pa.string()), kind)


def _float(cell: float | None) -> float | None:
    try:
        return None if cell is None else float(cell)
    except OverflowError:
        return None


def _dumped(cell: Any) -> str:
    return json.dumps(cell, ensure_ascii=False)


def _strings(cells: Sequence[str | None]) -> pa.Array:
    try:
        return pa.array(cells, pa.string())
    except UnicodeEncodeError:
        return pa.array([None if cell is None else clean_caption(cell) for cell in cells], pa.string())
