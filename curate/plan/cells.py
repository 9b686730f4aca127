"""Turns a list's cells into columns: infers types where the format states none, and converts URLs, ids and captions.

Lists in csv and tsv hold text alone. A column is read as numbers when all cells of the first chunk are numbers and
none would change by it: `007` and numbers of more than 18 digits are names, and stay text. A later cell that does
not fit becomes null, and the pass notes the number of such cells.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.schema import clean_caption

INTEGER = r"^[+-]?(0|[1-9][0-9]{0,17})$"
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
NAME = r"^[+-]?(0[0-9]|[0-9]{19})"
"""Cells that look like numbers, but would be written differently after a conversion."""
NO_NUMBER = ("", "NA", "N/A", "NULL", "Null", "null", "None", "nan", "NaN", "NAN")
"""Cells that are null in a column of numbers."""

_INT64 = 1 << 63

Cells = Sequence[Any] | pa.Array
"""The cells of one column: Python values, or an Arrow array where the format states types."""

MOST_CHARACTERS = 100_000
"""Characters of a text that the plan stores: of a caption, a URL, and a cell that is passed through."""

TOO_LONG = f"captions of more than {MOST_CHARACTERS:,} characters were cut"
LONG_URL = f"URLs of more than {MOST_CHARACTERS:,} characters were cut"
LONG_CELL = f"cells of more than {MOST_CHARACTERS:,} characters were cut"
LEFT_OUT = "captions of rows with several captions were left out, as empty or repeated within the row"
NO_TEXT = "captions that are neither text nor a list of texts count as missing"


@dataclass(frozen=True)
class Captions:
    """The captions of a column's cells; a cell may hold several.

    Args:
        texts: never null; '' for a cell without a caption.
        rows: for each text the number of its cell, ascending; None where every cell has exactly one text.
        unusual: how many captions were changed or left out, by the sentence of a note.
    """

    texts: pa.Array
    rows: npt.NDArray[np.int64] | None = None
    unusual: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of_each(cls, texts_of_cells: Sequence[Sequence[str]], unusual: Mapping[str, int]) -> "Captions":
        """Captions from the texts of each cell: the distinct ones that are not empty, or '' where there are none."""
        kept = [list(dict.fromkeys(text for text in texts if text)) or [""] for texts in texts_of_cells]
        left_out = sum(len(texts) - len(of) for texts, of in zip(texts_of_cells, kept, strict=True) if texts)
        rows = np.repeat(np.arange(len(kept)), [len(texts) for texts in kept])
        return cls(_strings(list(chain.from_iterable(kept))), rows, {**unusual, LEFT_OUT: left_out})

    def shortened(self) -> "Captions":
        """Returns the captions cut to `MOST_CHARACTERS`, which are counted as unusual; their number stays the same."""
        texts, longer = shortened(self.texts)
        return Captions(texts, self.rows, {**self.unusual, TOO_LONG: longer}) if longer else self


def shortened(column: pa.Array) -> tuple[pa.Array, int]:
    """Returns a column with its texts cut to `MOST_CHARACTERS`, and how many were longer; other columns as they are."""
    if not pa.types.is_string(column.type):
        return column, 0
    longer = int(pc.sum(pc.greater(pc.utf8_length(column), MOST_CHARACTERS), min_count=0).as_py())
    return (pc.utf8_slice_codeunits(column, 0, MOST_CHARACTERS), longer) if longer else (column, 0)


class Values(ABC):
    """Converts a format's cells into columns.

    Attributes:
        typed: whether the format states a type for every column; otherwise it is inferred from the first cells.
    """

    typed: bool = False

    @abstractmethod
    def inferred(self, cells: Any) -> pa.DataType:
        """The type of a column, inferred from its first cells."""

    @abstractmethod
    def column(self, cells: Any, kind: pa.DataType) -> pa.Array:
        """Converts cells into a column of the given type; a cell that does not fit becomes null."""

    @abstractmethod
    def misfits(self, cells: Any, column: pa.Array) -> int:
        """The number of cells that hold a value and that `column` turned into null."""

    @abstractmethod
    def text(self, cells: Any) -> pa.Array:
        """Converts cells into text, for URLs and ids; '' for a cell without text, never null."""

    @abstractmethod
    def captions(self, cells: Any) -> Captions:
        """Converts cells into captions; a list of texts gives several."""

    def may_hold_several(self, kind: pa.DataType) -> bool:
        """Whether a cell of a caption column of that type may hold several captions."""
        del kind
        return False


class ArrowValues(Values):
    """The cells of formats that state a type for every column."""

    typed = True

    def inferred(self, cells: pa.Array) -> pa.DataType:
        """See `Values`: the column's own type."""
        return plain_type(cells.type)

    def column(self, cells: pa.Array, kind: pa.DataType) -> pa.Array:
        """See `Values`."""
        return _fitted(_plain(cells), kind)

    def misfits(self, cells: pa.Array, column: pa.Array) -> int:
        """See `Values`."""
        return int(column.null_count - cells.null_count)

    def text(self, cells: pa.Array) -> pa.Array:
        """See `Values`; numbers become text, too."""
        column = _plain(cells)
        column = _decoded(column) if _is_bytes(column.type) else column.cast(pa.string())
        return column.fill_null("")

    def captions(self, cells: pa.Array) -> Captions:
        """See `Values`."""
        cells = _plain(cells)
        if not is_list_of_texts(cells.type):
            return Captions(self.text(cells))
        texts: list[list[str]] = [[] for _ in range(len(cells))]
        held = zip(
            pc.list_parent_indices(cells).to_pylist(), self.text(pc.list_flatten(cells)).to_pylist(), strict=True
        )
        for row, text in held:
            texts[row].append(text)
        return Captions.of_each(texts, {})

    def may_hold_several(self, kind: pa.DataType) -> bool:
        """See `Values`."""
        return is_list_of_texts(kind)


class TextValues(Values):
    """The cells of formats that hold text alone."""

    def inferred(self, cells: Sequence[str | None]) -> pa.DataType:
        """See `Values`."""
        text = pa.array(cells, pa.string())
        text = text.filter(pc.invert(pc.is_in(text, pa.array(NO_NUMBER)))).drop_null()
        if not len(text) or pc.any(pc.match_substring_regex(text, NAME)).as_py():
            return pa.string()
        for pattern, kind in ((INTEGER, pa.int64()), (NUMBER, pa.float64())):
            if pc.all(pc.match_substring_regex(text, pattern)).as_py():
                return kind
        return pa.string()

    def column(self, cells: Sequence[str | None], kind: pa.DataType) -> pa.Array:
        """See `Values`; an empty cell is null."""
        text = pa.array(cells, pa.string())
        if pa.types.is_string(kind):
            return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            pattern = INTEGER if pa.types.is_integer(kind) else NUMBER
            text = pc.if_else(pc.match_substring_regex(text, pattern), text, pa.scalar(None, pa.string()))
            # Arrow's parser does not accept a plus sign.
            text = pc.replace_substring_regex(text, r"^\+", "")
        return _fitted(text, kind)

    def misfits(self, cells: Sequence[str | None], column: pa.Array) -> int:
        """See `Values`."""
        if pa.types.is_string(column.type):
            return 0
        held = sum(cell is not None for cell in cells)
        held -= pc.sum(pc.is_in(pa.array(cells, pa.string()), pa.array(NO_NUMBER)), min_count=0).as_py()
        return int(held - (len(column) - column.null_count))

    def text(self, cells: Sequence[str | None]) -> pa.Array:
        """See `Values`."""
        return pa.array(cells, pa.string()).fill_null("")

    def captions(self, cells: Sequence[str | None]) -> Captions:
        """See `Values`; never several."""
        return Captions(self.text(cells))


class JsonValues(Values):
    """The cells of formats that hold values of any JSON type; lone surrogates in text become U+FFFD."""

    def inferred(self, cells: Sequence[Any]) -> pa.DataType:
        """See `Values`."""
        kinds = {type(cell) for cell in cells if cell is not None}
        if kinds == {bool}:
            return pa.bool_()
        if kinds == {int} and all(-_INT64 <= cell < _INT64 for cell in cells if cell is not None):
            return pa.int64()
        return pa.float64() if kinds and kinds <= {int, float} else pa.string()

    def column(self, cells: Sequence[Any], kind: pa.DataType) -> pa.Array:
        """See `Values`; a column of text holds other values as JSON."""
        if pa.types.is_string(kind):
            return _strings([cell if cell is None or isinstance(cell, str) else _dumped(cell) for cell in cells])
        if pa.types.is_boolean(kind):
            return pa.array([cell if isinstance(cell, bool) else None for cell in cells], kind)
        numbers = [cell if isinstance(cell, int | float) and not isinstance(cell, bool) else None for cell in cells]
        if pa.types.is_integer(kind):
            whole = [cell if isinstance(cell, int) and -_INT64 <= cell < _INT64 else None for cell in numbers]
            return _fitted(pa.array(whole, pa.int64()), kind)
        if pa.types.is_floating(kind):
            return _fitted(pa.array([_float(cell) for cell in numbers], pa.float64()), kind)
        # Another list of the source, such as a parquet file, gave the column its type, such as a date.
        return _fitted(self.column(cells, pa.string()), kind)

    def misfits(self, cells: Sequence[Any], column: pa.Array) -> int:
        """See `Values`."""
        if pa.types.is_string(column.type):
            return 0
        return int(column.null_count - sum(cell is None for cell in cells))

    def text(self, cells: Sequence[Any]) -> pa.Array:
        """See `Values`; a value of another type becomes ''."""
        return _strings([cell if isinstance(cell, str) else "" for cell in cells])

    def captions(self, cells: Sequence[Any]) -> Captions:
        """See `Values`; a number becomes its digits, a value of another type counts as missing."""
        texts = [[_caption(one) for one in cell] if isinstance(cell, list) else [_caption(cell)] for cell in cells]
        unusual = {NO_TEXT: sum(text is None for of in texts for text in of)}
        if any(isinstance(cell, list) for cell in cells):
            return Captions.of_each([[text or "" for text in of] for of in texts], unusual)
        return Captions(_strings([text or "" for (text,) in texts]), None, unusual)

    def may_hold_several(self, kind: pa.DataType) -> bool:
        """See `Values`; any later line may hold a list of captions."""
        del kind
        return True


def is_list_of_texts(kind: pa.DataType) -> bool:
    """Whether a type is a list of text or bytes, of any of Arrow's encodings."""
    types = pa.types
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    return any(is_one(kind) for is_one in lists) and plain_type(kind.value_type) in (pa.string(), pa.binary())


def plain_type(kind: pa.DataType) -> pa.DataType:
    """A type without its encoding: the type that a plan's part stores, and that every reader understands."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if _is_text(kind) or pa.types.is_null(kind):
        return pa.string()
    return pa.binary() if _is_bytes(kind) else kind


def _plain(column: pa.Array) -> pa.Array:
    """A column without its encoding and with valid text.

    Bytes that are not UTF-8 become U+FFFD; parquet's readers do not check them.
    """
    if pa.types.is_dictionary(column.type):
        return _plain(column.dictionary_decode())
    if isinstance(column, pa.ExtensionArray):
        return _plain(column.storage)
    return _decoded(column.cast(pa.large_binary())) if _is_text(column.type) else column


def _fitted(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Casts a column to a type; where that fails, casts cell by cell, with null for a cell that does not fit."""
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


def _caption(cell: Any) -> str | None:
    """Converts a JSON value into a caption; None where it is neither text nor a number."""
    if cell is None or isinstance(cell, str):
        return cell or ""
    return _dumped(cell) if isinstance(cell, int | float) and not isinstance(cell, bool) else None


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
