"""C2PA manifests in JPEG, PNG, WebP, GIF and AVIF, built as the specifications of C2PA and of JUMBF say."""

import json
import struct
import zlib

from PIL import features

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


def in_gif(boxes, part=255, after=False):
    """The boxes in sub-blocks of an application extension, before the first frame or after the last one."""
    frames = [drawing(seed=seed) for seed in range(2)]
    plain = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    pieces = [boxes[start : start + part] for start in range(0, len(boxes), part)]
    blocks = b"".join(bytes([len(piece)]) + piece for piece in pieces)
    block = b"\x21\xff\x0bC2PA_GIF\x01\0\0" + blocks + b"\0"
    at = len(plain) - 1 if after else 13 + (3 << (plain[10] & 7) + 1 if plain[10] & 0x80 else 0)
    return plain[:at] + block + plain[at:]


C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")


def in_avif(boxes, purpose=b"manifest", after=False, large=False):
    """The boxes in a uuid box behind ftyp, or at the end: version and flags, purpose, offset of Merkle trees, boxes."""
    plain = encoded(drawing(), "AVIF")
    content = C2PA_UUID + b"\0\0\0\0" + purpose + b"\0" + bytes(8) + boxes
    whole = b"\0\0\0\x01uuid" + struct.pack(">Q", 16 + len(content)) + content if large else box(b"uuid", content)
    at = len(plain) if after else int.from_bytes(plain[:4])
    return plain[:at] + whole + plain[at:]


FILES = {"jpeg": in_jpeg, "png": in_png, "webp": in_webp, "gif": in_gif}
if features.check("avif"):
    FILES["avif"] = in_avif
