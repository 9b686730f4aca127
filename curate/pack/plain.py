"""Converts Arrow values to values that JSON can hold."""

import datetime as dt
import math
from typing import Any

import pyarrow as pa


def plain_values(column: pa.ChunkedArray) -> list[Any]:
    """Returns the values of a column for JSON: times in ISO 8601, bytes in hex, NaN and infinities as null."""
    of = column.type
    try:
        values: list[Any] = column.to_pylist()
    except (OverflowError, ValueError):
        # Arrow's times reach beyond Python's years 1 to 9999.
        values = [_python(scalar) for scalar in column]
    if pa.types.is_string(of) or pa.types.is_integer(of) or pa.types.is_boolean(of):
        return values
    return [plain(value) for value in values]


def plain(value: Any) -> Any:
    """Returns one value for JSON; values without a JSON form (a decimal, a uuid) become their text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)


def _python(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):
        return str(scalar.cast(pa.int64()).as_py())
