"""Converts pair ids into the two numbers that the funnel's database stores, and back."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate import schema


def words(pair_ids: pa.Array) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """The two halves (high, low) of each id as numbers, which sort as the bytes do."""
    data = memoryview(pair_ids.buffers()[1]) if len(pair_ids) else b""
    data = data[pair_ids.offset * 16 : (pair_ids.offset + len(pair_ids)) * 16]
    pairs = np.frombuffer(data, ">u8").reshape(-1, 2).astype(np.uint64)
    return pairs[:, 0], pairs[:, 1]


def from_words(high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64]) -> pa.Array:
    """The ids of these halves: fixed_size_binary[16]."""
    data = np.column_stack([high, low]).astype(">u8").tobytes()
    return pa.FixedSizeBinaryArray.from_buffers(schema.ID, len(high), [None, pa.py_buffer(data)])
