"""Compressions of a whole list, by the suffix that follows the format's own."""

from typing import Any

import pyarrow as pa

CODECS = {"gz": "gzip", "zst": "zstd"}
"""Arrow's name of each codec, by suffix."""


def decompressed(opened: Any, codec: str | None) -> Any:
    """An Arrow stream of an open file's decompressed bytes, or of its own bytes where there is no codec."""
    stream = pa.PythonFile(opened, "r")
    return pa.CompressedInputStream(stream, codec) if codec else stream
