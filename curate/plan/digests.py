"""Cells of `source.sha256` and `source.md5`: the digests that the list expects of its images."""

import base64
import binascii
import re

import pyarrow as pa

_BYTES = {"sha256": 32, "md5": 16}


def in_hex(cells: pa.Array | pa.ChunkedArray, kind: str) -> tuple[pa.Array, int]:
    """Returns digests as lower-case hex digits, and how many cells are neither blank nor a digest.

    Args:
        cells: text; hex digits or base64, with or without the prefix `<kind>:`. Null and blank cells expect nothing.
        kind: sha256 or md5.

    Returns:
        The digests, null for every cell without one; the number of cells that became null though they are not blank.
    """
    texts = [(cell or "").strip() for cell in cells.to_pylist()]
    found = [_hex(text, kind) for text in texts]
    unfit = sum(digest is None and bool(text) for text, digest in zip(texts, found, strict=True))
    return pa.array(found, pa.string()), unfit


def _hex(text: str, kind: str) -> str | None:
    size = _BYTES[kind]
    if text[: len(kind) + 1].lower() == f"{kind}:":
        text = text[len(kind) + 1 :]
    if re.fullmatch(rf"[0-9a-fA-F]{{{2 * size}}}", text):
        return text.lower()
    if len(text) > 2 * size:
        return None
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded.hex() if len(decoded) == size else None
