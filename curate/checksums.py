"""Checksums of stored bytes: of JSON files, of Parquet footers and lists, and of the pictures in a part's tar.

Pages of tables have checksums of their own, which pyarrow compares. A fault of a disk or a transfer is what they are
for: SHA-256 where a file is read whole, CRC-32 (2.7 GB/s on one core) where it is read often or in pieces.
"""

import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_CHECKSUM = re.compile(rb',?\s*"checksum": "sha256:(?P<digest>[0-9a-f]{64})"\s*}\s*\Z')
"""The end of a JSON file that `json_bytes` made; the digest is that of all bytes before."""

_CHECKSUM_BYTES = 200
"""Bytes at the end of a JSON file in which the checksum is looked for."""

_TAIL = 64 << 10
"""Bytes at the end of a Parquet file that are read first, as pyarrow does; a larger footer needs a second reading."""

_MAGIC = b"PAR1"


class Changed(ValueError):
    """Stored bytes differ from their checksum; the text says how."""


def json_bytes(content: Mapping[str, Any], indent: int | None = None, *, sort_keys: bool = True) -> bytes:
    """Returns a JSON object with a last key `checksum`: the SHA-256 of the bytes before it."""
    body = json.dumps(content, sort_keys=sort_keys, indent=indent)[:-1].rstrip().encode()
    line = b" " if indent is None else b"\n" + b" " * indent
    end = b"}\n" if indent is None else b"\n}\n"
    comma = b"," if content else b""
    return body + comma + line + f'"checksum": "sha256:{hashlib.sha256(body).hexdigest()}"'.encode() + end


def json_of(data: bytes) -> dict[str, Any]:
    """Returns the object of which `json_bytes` made the bytes, without the checksum; other JSON is not compared.

    Raises:
        Changed: the bytes are not a JSON object, or differ from their checksum.
    """
    tail = data[-_CHECKSUM_BYTES:]
    found = _CHECKSUM.search(tail)
    # Either word shows that there was a checksum, whichever of them has changed.
    if found is None and (b"checksum" in tail or b"sha256:" in tail):
        raise Changed("its bytes changed after they were written (its checksum cannot be read)")
    body = data[: len(data) - len(tail) + found.start()] if found else b""
    if found and hashlib.sha256(body).hexdigest().encode() != found["digest"]:
        raise Changed("its bytes changed after they were written (its checksum differs)")
    try:
        loaded = json.loads(data)
    except ValueError as error:
        raise Changed(f"it is not JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise Changed("it is not a JSON object")
    loaded.pop("checksum", None)
    return loaded


def footer_crc32(parquet: bytes) -> int:
    """Returns the CRC-32 of the footer of a Parquet file, with its length and the magic bytes behind it."""
    return zlib.crc32(parquet[-_footer_bytes(parquet[-_TAIL:]) :])


def footer_crc32_of(opened: IO[bytes]) -> int:
    """Returns the same of a file that is open for reading."""
    opened.seek(max(0, opened.seek(0, io.SEEK_END) - _TAIL))
    length = _footer_bytes(opened.read())
    opened.seek(-length, io.SEEK_END)
    return zlib.crc32(opened.read())


def check_footer(opened: IO[bytes], size: int, crc32: int | None) -> None:
    """Compares a Parquet file's size and footer with what they have to be; leaves the file at its start.

    Args:
        opened: the file.
        size: bytes that it has to have.
        crc32: that of `footer_crc32`; None: unknown, and not compared.

    Raises:
        Changed: size or footer differ.
    """
    bytes_now = opened.seek(0, io.SEEK_END)
    if bytes_now != size:
        raise Changed(f"it has {bytes_now} bytes, not {size}")
    opened.seek(max(0, size - _TAIL))
    tail = opened.read()
    length = _footer_bytes(tail)
    if length > len(tail):
        opened.seek(max(0, size - length))
        tail = opened.read()
    footer = tail[-length:]
    if crc32 is not None and zlib.crc32(footer) != crc32:
        raise Changed("its footer differs from the checksum")
    opened.seek(0)


def check_entries(table: pa.Table, metadata: pq.FileMetaData, groups: Iterable[int]) -> None:
    """Compares the numbers of entries in columns of lists with those in the footer.

    A page's header, which the page's checksum does not cover, holds the number of the page's entries. Where that is too
    small, the last list of a column is too short, and nothing else shows it.

    Args:
        table: the rows of the groups.
        metadata: of the file.
        groups: numbers of row groups.

    Raises:
        Changed: a column has another number of entries.
    """
    lists = [field.name for field in table.schema if pa.types.is_nested(field.type)]
    if not lists:
        return
    expected: dict[str, int] = {}
    for group in groups:
        of_group = metadata.row_group(group)
        for number in range(of_group.num_columns):
            column = of_group.column(number)
            name = column.path_in_schema.partition(".")[0]
            expected[name] = expected.get(name, 0) + column.num_values
    for name in lists:
        entries = sum(sum(_entries(chunk)) for chunk in table[name].chunks)
        if entries != expected.get(name, entries):
            raise Changed(f"column {name} has {entries} entries, not {expected[name]}")


def _entries(values: pa.Array) -> Iterator[int]:
    """Yields the number of entries of each leaf column of an array: an empty or null list is one entry."""
    kind = values.type
    if pa.types.is_struct(kind):
        for number in range(kind.num_fields):
            yield from _entries(values.field(number))
    elif pa.types.is_map(kind):
        start, end = values.offsets[0].as_py(), values.offsets[-1].as_py()
        for of_entry in (values.keys[start:end], values.items[start:end]):
            empty = int(np.count_nonzero(np.diff(values.offsets.to_numpy()) == 0))
            yield from (empty + entries for entries in _entries(of_entry))
    elif _is_of_lists(kind):
        empty = pc.sum(pc.equal(pc.fill_null(pc.list_value_length(values), 0), 0), min_count=0).as_py()
        yield from (empty + entries for entries in _entries(values.flatten()))
    elif pa.types.is_fixed_size_list(kind):
        # Pyarrow itself refuses a list of another size.
        yield from (values.null_count + entries for entries in _entries(values.flatten()))
    else:
        yield len(values)


def _is_of_lists(kind: pa.DataType) -> bool:
    are = (pa.types.is_list, pa.types.is_large_list, pa.types.is_list_view, pa.types.is_large_list_view)
    return any(is_kind(kind) for is_kind in are)


def _footer_bytes(tail: bytes) -> int:
    """The size of a Parquet file's footer with its length and the magic bytes behind it. Raises Changed."""
    if len(tail) < 12 or tail[-4:] != _MAGIC:
        raise Changed("its end is not that of a Parquet file")
    return int.from_bytes(tail[-8:-4], "little") + 8
