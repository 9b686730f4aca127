"""Reads from an image's C2PA manifests whether they forbid training.

A manifest store is a tree of JUMBF boxes (ISO 19566-5): in APP11 segments of a JPEG, the chunk caBX of a PNG, the chunk
C2PA of a WebP, an application extension C2PA_GIF of a GIF, or a uuid box of an AVIF or HEIF (C2PA 2.4, A.3 to A.5). It
is read wherever it is in the file. Assertions `cawg.training-mining` (CAWG Training and Data Mining Assertion 1.1) and
`c2pa.training-mining` (C2PA 1.x) have entries in CBOR or JSON, each with a `use`: allowed, notAllowed or constrained.
Without further information, constrained means notAllowed. All manifests of the store are read: a resized copy of a
reserved picture remains reserved. A forged manifest can only withhold an image, so signatures are not verified.

Whatever the bytes are, the work is bounded and nothing is raised: a tree that cannot be read states nothing.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

MAX_SEGMENTS = 20_000
"""Most segments or chunks of a file that are looked at."""

MAX_SUB_BLOCKS = 100_000
"""Most blocks and sub-blocks of a GIF that are looked at; a sub-block has at most 255 bytes."""

MAX_BOXES = 5_000
MAX_DEPTH = 8
"""Most boxes of all manifests, and the deepest that are looked at; an assertion is at depth 4."""

MAX_ASSERTION = 64 << 10
"""Largest assertion in bytes; larger ones are not read."""

_LABEL = re.compile(r"(?:c2pa|cawg)\.training-mining(?:\.v\d+)?(?:__\d+)?")
_USES = re.compile(r"(?:c2pa|cawg)\.(?:ai_training|ai_generative_training|data_mining)")
_FORBIDDEN = frozenset({"notAllowed", "constrained"})
_APP11, _SOS, _EOI = 0xEB, 0xDA, 0xD9
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_GIF_EXTENSION, _GIF_IMAGE = 0x21, 0x2C
_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_MERKLE = b"merkle"
"""The purpose of uuid boxes that hold hashes of a video's pieces, and no manifests."""


def forbidding_entry(data: bytes) -> str | None:
    """Returns the entry of a C2PA manifest that forbids training, as one line, or None where none does.

    Args:
        data: a JPEG, PNG, WebP, GIF, AVIF or HEIF file; other files have no entries.
    """
    budget = _Budget(MAX_BOXES)
    for store in _stores(data):
        for label, kind, content in _assertions(store, budget):
            use = _forbidden_use(_decoded(kind, content))
            if use:
                return f"C2PA: {label}: {use}"
    return None


class _Budget:
    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self) -> bool:
        """Returns whether one more may be looked at."""
        self.left -= 1
        return self.left >= 0


def _stores(data: bytes) -> list[bytes]:
    """Returns the manifest stores of a file: the bytes of JUMBF boxes."""
    if data.startswith(b"\xff\xd8"):
        return _of_jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return [body for name, body in _chunks(data, 8, "big", 12) if name == b"caBX"]
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return [body for name, body in _chunks(data, 12, "little", 8) if name == b"C2PA"]
    if data.startswith((b"GIF87a", b"GIF89a")):
        return list(_of_gif(data))
    if data[4:8] == b"ftyp":
        return list(_of_bmff(data))
    return []


def _of_jpeg(data: bytes) -> list[bytes]:
    """Returns the boxes of a JPEG's APP11 segments, each joined from its segments in their order.

    A segment: `JP`, the box's number (2 bytes), the segment's (4), and the box's header, repeated in every segment.
    """
    stores: dict[bytes, bytearray] = {}
    at = 2
    for _ in range(MAX_SEGMENTS):
        if at + 4 > len(data) or data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in _WITHOUT_LENGTH:
            at += 2
            continue
        if marker in (_SOS, _EOI):
            break
        size = int.from_bytes(data[at + 2 : at + 4])
        body = data[at + 4 : at + 2 + size]
        if marker == _APP11 and body[:2] == b"JP" and len(body) >= 16:
            number, box = body[2:4], body[8:]
            header = 16 if box[:4] == b"\0\0\0\x01" else 8
            if number in stores:
                stores[number] += box[header:]
            else:
                stores[number] = bytearray(box)
        at += 2 + max(2, size)
    return [bytes(store) for store in stores.values()]


def _chunks(data: bytes, at: int, order: Any, around: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields the names and contents of the chunks of a PNG or a RIFF file; `around`, the bytes beside the content."""
    for _ in range(MAX_SEGMENTS):
        if at + 8 > len(data):
            return
        size_first = order == "big"
        size = int.from_bytes(data[at : at + 4] if size_first else data[at + 4 : at + 8], order)
        name = data[at + 4 : at + 8] if size_first else data[at : at + 4]
        yield name, data[at + 8 : at + 8 + size] if name in (b"caBX", b"C2PA") else b""
        at += around + size + (0 if size_first else size % 2)


def _of_gif(data: bytes) -> Iterator[bytes]:
    """Yields the boxes in a GIF's application extensions, each joined from its sub-blocks.

    An application extension: 0x21 0xFF, a sub-block of 11 bytes with the application's name, and those of its data.
    """
    budget = _Budget(MAX_SUB_BLOCKS)
    at = 13 + _gif_colours(data[10:11])
    while at < len(data) and budget.spend():
        if data[at] == _GIF_EXTENSION:
            is_ours = data[at + 1 : at + 11] == b"\xff\x0bC2PA_GIF"
            # The 11 bytes are a sub-block that is not among the data.
            at += 14 if is_ours else 2
        elif data[at] == _GIF_IMAGE:
            # Nine bytes of place and size, the last with the size of the frame's colours, and one of the code's size.
            is_ours = False
            at += 11 + _gif_colours(data[at + 9 : at + 10])
        else:
            return
        joined = bytearray()
        while at < len(data) and data[at] and budget.spend():
            if is_ours:
                joined += data[at + 1 : at + 1 + data[at]]
            at += 1 + data[at]
        at += 1
        if is_ours:
            yield bytes(joined)


def _gif_colours(flags: bytes) -> int:
    """Returns the bytes of the table of colours that the flags of a GIF or of its frame announce."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _of_bmff(data: bytes) -> Iterator[bytes]:
    """Yields the boxes in the uuid boxes of an AVIF or HEIF.

    After the UUID: version and flags (4 bytes), a purpose that ends with a zero, the offset of Merkle trees (8 bytes).
    """
    for kind, first, last in _boxes(data, 0, len(data), _Budget(MAX_SEGMENTS)):
        if kind == b"uuid" and data[first : first + 16] == _UUID:
            purpose, ends, _ = data[first + 20 : min(last, first + 84)].partition(b"\0")
            if ends and purpose != _MERKLE:
                yield data[first + 20 + len(purpose) + 1 + 8 : last]


def _boxes(data: bytes, at: int, end: int, budget: _Budget) -> Iterator[tuple[bytes, int, int]]:
    """Yields type, start and end of the content of the boxes between two offsets, up to the first broken one."""
    while at + 8 <= end and budget.spend():
        size, header = int.from_bytes(data[at : at + 4]), 8
        if size == 1:
            size, header = int.from_bytes(data[at + 8 : at + 16]), 16
        elif size == 0:
            size = end - at
        if size < header or at + size > end:
            return
        yield data[at + 4 : at + 8], at + header, at + size
        at += size


def _assertions(store: bytes, budget: _Budget) -> Iterator[tuple[str, bytes, bytes]]:
    """Yields label, type and content of each content box of the assertions on training."""
    waiting = [(0, len(store), 0)]
    while waiting:
        start, end, depth = waiting.pop()
        label = ""
        for kind, first, last in _boxes(store, start, end, budget):
            if kind == b"jumd":
                # A UUID of 16 bytes, a byte of which bit 1 says that there is a label, the label, a zero.
                has_label = last - first > 17 and store[first + 16] & 2
                text = store[first + 17 : min(last, first + 273)] if has_label else b""
                label = text.partition(b"\0")[0].decode("ascii", "replace")
            elif kind == b"jumb" and depth < MAX_DEPTH:
                waiting.append((first, last, depth + 1))
            elif kind in (b"cbor", b"json") and last - first <= MAX_ASSERTION and _LABEL.fullmatch(label):
                yield label, kind, store[first:last]


def _decoded(kind: bytes, content: bytes) -> Any:
    """Returns the value of a content box, None where it cannot be read."""
    try:
        return json.loads(content) if kind == b"json" else _Cbor(content).value()
    except (ValueError, RecursionError):
        return None


def _forbidden_use(assertion: Any) -> str | None:
    """Returns the first entry that forbids training, with its use."""
    if not isinstance(assertion, dict):
        return None
    # The first release of the CAWG assertion left `entries` out.
    entries = assertion.get("entries", assertion)
    if not isinstance(entries, dict):
        return None
    for name, entry in entries.items():
        use = entry.get("use") if isinstance(entry, dict) else None
        if isinstance(name, str) and _USES.fullmatch(name) and isinstance(use, str) and use in _FORBIDDEN:
            return f"{name} is {use}"
    return None


class _Cbor:
    """The part of CBOR (RFC 8949) in which assertions are written; at most as many values as there are bytes.

    Args:
        data: one encoded value.
    """

    _ENDLESS = 31

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def value(self, depth: int = 0) -> Any:
        """Returns the next value; byte strings, numbers other than integers, and undefined become None.

        Raises:
            ValueError: the bytes end early, are not CBOR, or are nested more deeply than MAX_DEPTH.
        """
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        major, size = self._head()
        if major in (0, 1):
            return -1 - size if major else size
        if major in (2, 3):
            text = b"".join(self._strings(major)) if size < 0 else self._take(size)
            return text.decode("utf-8", "replace") if major == 3 else None
        if major == 4:
            return [self.value(depth + 1) for _ in self._items(size)]
        if major == 5:
            found = {}
            for _ in self._items(size):
                key, value = self.value(depth + 1), self.value(depth + 1)
                found[key if isinstance(key, str) else None] = value
            return found
        if major == 6:
            return self.value(depth + 1)
        return {20: False, 21: True}.get(size)

    def _head(self) -> tuple[int, int]:
        """Returns the major type and the argument of the next value, -1 where its length is not stated."""
        first = self._take(1)[0]
        major, short = first >> 5, first & 31
        if short < 24:
            return major, short
        if short < 28:
            argument = int.from_bytes(self._take(1 << (short - 24)))
            return major, argument if major != 7 else 0
        if short == self._ENDLESS and 2 <= major <= 5:
            return major, -1
        raise ValueError("not CBOR")

    def _items(self, size: int) -> Iterator[None]:
        """Yields once for each item of an array or a map."""
        if size > len(self._data) - self._at:
            raise ValueError("more items than bytes")
        while size and not (size < 0 and self._at_break()):
            yield
            size -= size > 0

    def _strings(self, major: int) -> Iterator[bytes]:
        while not self._at_break():
            kind, size = self._head()
            if kind != major or size < 0:
                raise ValueError("not CBOR")
            yield self._take(size)

    def _at_break(self) -> bool:
        is_break = self._data[self._at : self._at + 1] == b"\xff"
        self._at += is_break
        return is_break

    def _take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise ValueError("the bytes end early")
        self._at += size
        return taken
