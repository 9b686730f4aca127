"""Pair ids as two numbers each, as the funnel's database holds them."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate import schema


def words(pair_ids: pa.Array) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Ids as two numbers each, which order as their bytes do."""
    data = memoryview(pair_ids.buffers()[1]) if len(pair_ids) else b""
    data = data[pair_ids.offset * 16 : (pair_ids.offset + len(pair_ids)) * 16]
    pairs = np.frombuffer(data, ">u8").reshape(-1, 2).astype(np.uint64)
    return pairs[:, 0], pairs[:, 1]


def from_words(high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64]) -> pa.Array:
    """The ids again: fixed_size_binary[16]."""
    data = np.column_stack([high, low]).astype(">u8").tobytes()
    return pa.FixedSizeBinaryArray.from_buffers(schema.ID, len(high), [None, pa.py_buffer(data)])
