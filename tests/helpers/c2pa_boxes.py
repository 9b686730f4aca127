"""C2PA manifests in JPEG, PNG and WebP, built as the specifications of C2PA and of JUMBF say."""

import json
import struct
import zlib

from helpers.fetch_samples import drawing, encoded

TYPES = {"cbor": b"cbor", "json": b"json", "c2ma": b"c2ma", "c2as": b"c2as", "c2pa": b"c2pa"}
AFTER_TYPE = bytes.fromhex("00110010800000aa00389b71")


def cbor(value):
    """CBOR of text, booleans, integers, lists and dicts."""

    def head(major, size):
        if size < 24:
            return bytes([major << 5 | size])
        return bytes([major << 5 | 25]) + struct.pack(">H", size)

    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return head(0, value)
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    return head(5, len(value)) + b"".join(cbor(key) + cbor(item) for key, item in value.items())


def box(kind, content):
    return struct.pack(">I", 8 + len(content)) + kind + content


def superbox(kind, label, *content):
    described = TYPES[kind] + AFTER_TYPE + b"\x03" + label.encode() + b"\0"
    return box(b"jumb", box(b"jumd", described) + b"".join(content))


def assertion(label="cawg.training-mining", name="cawg.ai_generative_training", use="notAllowed", kind="cbor", **more):
    value = {"entries": {"cawg.ai_inference": {"use": "allowed"}, name: {"use": use, **more}}}
    return superbox(kind, label, box(TYPES[kind], cbor(value) if kind == "cbor" else json.dumps(value).encode()))


def store(*assertions):
    other = superbox("cbor", "c2pa.actions", box(b"cbor", cbor({"actions": [{"action": "c2pa.created"}]})))
    manifest = superbox("c2ma", "urn:uuid:1", superbox("c2as", "c2pa.assertions", other, *assertions))
    return superbox("c2pa", "c2pa", manifest)


def in_jpeg(boxes, part=65_000, image=None):
    """The boxes in APP11 segments of `part` bytes each, every one with the box's header."""
    plain = image or encoded(drawing())
    segments = b""
    for number, start in enumerate(range(8, len(boxes), part)):
        body = b"JP" + struct.pack(">HI", 1, number + 1) + boxes[:8] + boxes[start : start + part]
        segments += b"\xff\xeb" + struct.pack(">H", 2 + len(body)) + body
    return plain[:2] + segments + plain[2:]


def in_png(boxes):
    plain = encoded(drawing(), "PNG")
    chunk = struct.pack(">I", len(boxes)) + b"caBX" + boxes + struct.pack(">I", zlib.crc32(b"caBX" + boxes))
    return plain[:33] + chunk + plain[33:]


def in_webp(boxes):
    plain = encoded(drawing(), "WEBP")
    chunk = b"C2PA" + struct.pack("<I", len(boxes)) + boxes + b"\0" * (len(boxes) % 2)
    return b"RIFF" + struct.pack("<I", len(plain) - 8 + len(chunk)) + plain[8:] + chunk


FILES = {"jpeg": in_jpeg, "png": in_png, "webp": in_webp}
