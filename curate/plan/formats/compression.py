"""Compressions around a list of any format, by the suffix that follows the format's."""

from typing import Any

import pyarrow as pa

CODECS = {"gz": "gzip", "zst": "zstd"}
"""Arrow's name of each codec, by suffix."""


def decompressed(opened: Any, codec: str | None) -> Any:
    """An Arrow stream of what lies inside an open file; the file's own bytes where there is no codec."""
    stream = pa.PythonFile(opened, "r")
    return pa.CompressedInputStream(stream, codec) if codec else stream
