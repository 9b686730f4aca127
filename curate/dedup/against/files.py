"""Reads the values of a set from files: hashes from text, vectors from .npy, either from a column of Parquet."""

import contextlib
import hashlib
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.duplicates import Stored
from curate.errors import RecipeError, nearest, one_line
from curate.remembered import Remembered
from curate.store import Json, Store, access_errors

MOST = 100_000
"""Files of one kind in one set, at most."""

UNIT_LENGTH = 0.01
"""How far the length of a vector may be from 1: float16 alone moves it by 0.0005."""

LEFT_OUT = ("null", "not finite", "zero", "not of unit length")
"""Why a value is left out."""

_SUFFIXES = {True: (".txt", ".parquet"), False: (".npy", ".parquet")}
"""The suffixes of files of hashes (True), and of vectors."""

_LINE = 4096
"""Characters of a line of text, at most."""


@dataclass(frozen=True)
class ValueFile:
    """A file of values.

    Attributes:
        path: as the recipe names it, or as a glob finds it.
        sha256: of its bytes.
        rows: its rows, or lines, with and without values.
        width: the number of values in a vector; 0 where values are hashes.
    """

    path: str
    sha256: str
    rows: int
    width: int

    @property
    def name(self) -> str:
        """The last word of its path."""
        return self.path.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class Values:
    """Values of some rows of a file.

    Args:
        rows: int64 [n], the rows, from 0.
        values: uint64 [n, 64-bit words] or float16 [n, width].
        left_out: how many rows have no value that can be compared, by reason (`LEFT_OUT`).
        first: by reason, the first such row.
    """

    rows: npt.NDArray[np.int64]
    values: npt.NDArray[Any]
    left_out: Counter[str]
    first: dict[str, int]


def find(
    where: str, paths: Sequence[str], stored: Stored, endpoint: str | None = None, remembered: Remembered | None = None
) -> list[ValueFile]:
    """Returns the files that paths and globs name, in their order, with what is in them; each is read once.

    Args:
        where: the key in the recipe, for errors.
        paths: files and globs, as in the recipe.
        stored: how the values are written.
        endpoint: an S3 server other than AWS.
        remembered: what an earlier command found out about a file that has not changed since is taken from it.

    Raises:
        RecipeError: a path names no file, a file has another format, or all of them together no row.
    """
    known = Remembered(endpoint) if remembered is None else remembered
    found: list[ValueFile] = []
    matched = (_matching(where, path, stored, endpoint) for path in paths)
    for path in dict.fromkeys(itertools.chain.from_iterable(matched)):
        asked = {"path": path, "column": stored.column, "digits": stored.digits}

        def look(path: str = path) -> tuple[Json, list[str]]:
            return asdict(_look(where, path, stored, endpoint)), [path]

        found.append(ValueFile(**known.get("set", asked, look)))
    if len(found) > MOST:
        raise RecipeError(f"{where}: {len(found):,} files; write {MOST:,} at most")
    if not sum(file.rows for file in found):
        raise RecipeError(f"{where}: {found[0].path} has no value; name a file that has some, or leave the set out")
    for file in found:
        if file.width != found[0].width:
            raise RecipeError(
                f"{where}: {found[0].path} has vectors of {found[0].width} values, {file.path} of {file.width}; the "
                "files of a set come from one model"
            )
    return found


def read(where: str, file: ValueFile, start: int, stop: int, stored: Stored, endpoint: str | None = None) -> Values:
    """Returns the values of a file's rows from `start` up to `stop`.

    Raises:
        RecipeError: the file cannot be read, or a value is not of the kind.
    """
    with _opened(where, file.path, endpoint) as opened:
        if file.path.lower().endswith(".txt"):
            rows, digits = _lines(where, file.path, opened, start, stop, stored)
            return Values(rows, _hashes("".join(digits), stored), Counter(), {})
        if file.path.lower().endswith(".npy"):
            array, _ = _npy(where, file.path, opened, start, stop)
            return _vectors(np.arange(start, stop), array)
        return _column(where, file, opened, start, stop, stored)


def digest(where: str, path: str, endpoint: str | None = None) -> str:
    """Returns the sha256 of a file, in hex. Raises RecipeError where it cannot be read."""
    with _opened(where, path, endpoint) as opened:
        whole = hashlib.sha256()
        while block := opened.read(1 << 20):
            whole.update(block)
        return whole.hexdigest()


def _matching(where: str, path: str, stored: Stored, endpoint: str | None) -> list[str]:
    """Returns the files that a path or glob names, sorted. Raises RecipeError where it names none of the format."""
    suffixes = _SUFFIXES[bool(stored.digits)]
    allowed = " or ".join(suffixes)
    try:
        store = Store(path, endpoint)
        if store.kind() == "file":
            matched = [path]
        elif re.search(r"[*?\[]", path):
            names = [str(name) for name in store.fs.glob(path)]
            matched = sorted(str(store.fs.unstrip_protocol(name)) if "://" in path else name for name in names)
        else:
            matched = []
    except access_errors(path) as error:
        raise RecipeError(f"{where}: {path} cannot be read: {one_line(error)}") from error
    if not matched:
        raise RecipeError(f"{where}: {path} names no file; write the path of a file, or a glob ({allowed})")
    if other := next((name for name in matched if not name.lower().endswith(suffixes)), None):
        raise RecipeError(f"{where}: {other} is not read here; write a file that ends in {allowed}")
    return matched


def _look(where: str, path: str, stored: Stored, endpoint: str | None) -> ValueFile:
    sha256 = digest(where, path, endpoint)
    with _opened(where, path, endpoint) as opened:
        if path.lower().endswith(".txt"):
            rows, digits = _lines(where, path, opened, 0, None, stored)
            return ValueFile(path, sha256, int(rows[-1]) + 1 if digits else 0, 0)
        if path.lower().endswith(".npy"):
            _, (count, width) = _npy(where, path, opened, 0, 0)
            return ValueFile(path, sha256, count, width)
        table = _parquet(where, path, opened)
        width = _width(where, path, table, stored)
        return ValueFile(path, sha256, table.metadata.num_rows, width)


@contextlib.contextmanager
def _opened(where: str, path: str, endpoint: str | None) -> Iterator[IO[bytes]]:
    """Gives a file for reading; faults at reading it are RecipeErrors of one line."""
    try:
        with Store(path, endpoint).open("") as opened:
            yield opened
    except (*access_errors(path), pa.ArrowException) as error:
        raise RecipeError(f"{where}: {path} cannot be read: {one_line(error)}") from error


def _lines(
    where: str, path: str, opened: IO[bytes], start: int, stop: int | None, stored: Stored
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Returns the lines that have a value, from 0, and the values; text after a space or a `#` is ignored."""
    rows, digits = [], []
    right = re.compile(rf"[0-9a-f]{{{stored.digits}}}")
    number = 0
    for number, line in enumerate(_split(opened)):
        if stop is not None and number >= stop:
            break
        words = line.partition(b"#")[0].split()
        if not words or number < start:
            continue
        value = words[0].decode("ascii", "replace").lower()
        if not right.fullmatch(value):
            raise RecipeError(
                f"{where}: {path}, line {number + 1}: not a {stored.column} of {stored.digits} hex digits"
            )
        rows.append(number)
        digits.append(value)
    return np.array(rows, np.int64), digits


def _split(opened: IO[bytes]) -> Iterator[bytes]:
    """Yields the lines of a file; of a line of more than `_LINE` bytes its beginning."""
    with io.BufferedReader(opened) as lines:  # type: ignore[type-var] # fsspec's files are raw ones in all that counts
        while line := lines.readline(_LINE):
            whole = line
            while len(whole) == _LINE and not whole.endswith(b"\n"):
                whole = lines.readline(_LINE)
            yield line


def _npy(where: str, path: str, opened: IO[bytes], start: int, stop: int) -> tuple[npt.NDArray[Any], tuple[int, int]]:
    """Returns rows of an array of vectors, and its shape."""
    try:
        version = np.lib.format.read_magic(opened)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = header(opened)
    except ValueError as error:
        raise RecipeError(f"{where}: {path} is not a .npy file: {one_line(error)}") from error
    if len(shape) != 2 or is_fortran or dtype.kind != "f" or not shape[1]:
        order = " in Fortran's order" if is_fortran else ""
        raise RecipeError(
            f"{where}: {path} holds {dtype} {list(shape)}{order}; write vectors of float16, float32 or float64, row by "
            "row: [vectors, values]"
        )
    width = dtype.itemsize * shape[1]
    opened.seek(start * width, io.SEEK_CUR)
    data = opened.read((stop - start) * width)
    if len(data) != (stop - start) * width:
        raise RecipeError(f"{where}: {path} is cut off: its header says {list(shape)}")
    return np.frombuffer(data, dtype).reshape(-1, shape[1]), (int(shape[0]), int(shape[1]))


def _parquet(where: str, path: str, opened: IO[bytes]) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(opened)
    except pa.ArrowException as error:
        raise RecipeError(f"{where}: {path} is not a Parquet file: {one_line(error)}") from error


def _width(where: str, path: str, table: pq.ParquetFile, stored: Stored) -> int:
    """Returns the values of a vector, 0 for hashes. Raises RecipeError where the column does not fit."""
    columns = table.schema_arrow
    if stored.column not in columns.names:
        raise RecipeError(f"{where}: {path} has no column {stored.column!r}{nearest(stored.column, columns.names)}")
    kind = columns.field(stored.column).type
    if stored.digits:
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise RecipeError(f"{where}: {path}: the column {stored.column} is {kind}; write hex digits as text")
        return 0
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not pa.types.is_floating(kind.value_type):
        raise RecipeError(f"{where}: {path}: the column {stored.column} is {kind}; write lists of floats")
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    for batch in table.iter_batches(1024, columns=[stored.column]):
        lengths = pc.list_value_length(batch.column(0)).drop_null()
        if len(lengths):
            return int(lengths[0].as_py())
    return 0


def _column(where: str, file: ValueFile, opened: IO[bytes], start: int, stop: int, stored: Stored) -> Values:
    """Returns the values of some rows of a Parquet file."""
    table = _parquet(where, file.path, opened)
    pieces, before = [], 0
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        if before < stop and start < before + rows:
            read_group = table.read_row_group(group, columns=[stored.column])[stored.column]
            first = max(0, start - before)
            pieces += read_group.slice(first, min(rows, stop - before) - first).chunks
        before += rows
    column = pa.chunked_array(pieces, table.schema_arrow.field(stored.column).type).combine_chunks()
    return from_column(where, file.path, column, start, file.width, stored)


def from_column(where: str, path: str, column: pa.Array, start: int, width: int, stored: Stored) -> Values:
    """Returns the values of a column.

    Args:
        where: the key in the recipe, for errors.
        path: the file, for errors.
        column: hex digits, or lists of floats.
        start: the number of its first row in the file.
        width: the number of values in a vector.
        stored: how the values are written.

    Raises:
        RecipeError: a value is not of the kind.
    """
    present = np.flatnonzero(pc.is_valid(column).to_numpy(zero_copy_only=False))
    rows_present = present + start
    left_out, first_of = Counter[str](), dict[str, int]()
    if len(present) < len(column):
        left_out["null"] = len(column) - len(present)
        first_of["null"] = start + int(np.flatnonzero(pc.is_null(column).to_numpy(zero_copy_only=False))[0])
    column = column.drop_null()
    if stored.digits:
        text = pc.utf8_lower(column)
        right = pc.match_substring_regex(text, rf"^[0-9a-f]{{{stored.digits}}}$").to_numpy(zero_copy_only=False)
        if not right.all():
            row = int(rows_present[np.flatnonzero(~right)[0]])
            raise RecipeError(f"{where}: {path}, row {row}: not a {stored.column} of {stored.digits} hex digits")
        return Values(rows_present, _hashes("".join(text.to_pylist()), stored), left_out, first_of)
    if not pa.types.is_fixed_size_list(column.type):
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        if (lengths != width).any():
            other = int(np.flatnonzero(lengths != width)[0])
            raise RecipeError(
                f"{where}: {path}, row {rows_present[other]}: a vector of {lengths[other]} values, others have {width}"
            )
    flat = column.flatten()
    if flat.null_count:
        flat = pc.fill_null(flat.cast(pa.float64()), float("nan"))
    vectors = _vectors(rows_present, flat.to_numpy(zero_copy_only=False).reshape(-1, width))
    return Values(vectors.rows, vectors.values, left_out + vectors.left_out, {**first_of, **vectors.first})


def _hashes(digits: str, stored: Stored) -> npt.NDArray[np.uint64]:
    """Returns hashes as numbers, uint64 [n, words]."""
    return np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64).reshape(-1, stored.digits // 16)


def _vectors(rows: npt.NDArray[np.int64], vectors: npt.NDArray[Any]) -> Values:
    """Returns the vectors of length 1 as float16, which are stored so unless they are float16 already."""
    wide = vectors.astype(np.float64)
    is_finite: npt.NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(wide), axis=1)
    lengths = np.sqrt(np.einsum("ij,ij->i", *[np.where(is_finite[:, None], wide, 0.0)] * 2))
    why: dict[str, npt.NDArray[np.bool_]] = {
        "not finite": ~is_finite,
        "zero": is_finite & (lengths == 0),
        "not of unit length": is_finite & (lengths != 0) & (np.abs(lengths - 1) > UNIT_LENGTH),
    }
    usable = ~np.logical_or.reduce(np.stack(list(why.values())))
    left_out = Counter({reason: int(mask.sum()) for reason, mask in why.items() if mask.any()})
    first = {reason: int(rows[np.flatnonzero(mask)[0]]) for reason, mask in why.items() if mask.any()}
    kept = wide[usable]
    # Cosines in float64 are exact for values up to 1 (`curate.dedup.cosine`).
    if vectors.dtype != np.float16 or (np.abs(kept) > 1).any():
        kept /= lengths[usable][:, None]
    return Values(rows[usable], kept.astype(np.float16), left_out, first)
