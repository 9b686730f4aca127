"""The tables of a run: columns, types, ids, drop reasons and row order.

One *image* is one URL and is fetched once; one *pair* is an image and a caption. A planned row is a row of the source
with one caption: a source row with several captions is planned as several, which share their `source_row`.

    table       a row is      written by   columns
    ---------   -----------   ----------   -------------------------------------------------------------
    plan        a planned row plan         pair_id image_id url caption source_row repeated source_*
                                           (of samples also sample_*)
    images      an image      fetch        image_id status error_class error http_status host bytes
                                           milliseconds width height original_width original_height
                                           sha256 crc32 file
    pixels      an image      embed        image_id decoded phash brightness contrast colorfulness sharpness
    image_…     an image      embed        image_id image_embedding
    text_…      a pair        embed        pair_id text_embedding clip_similarity [clip_similarity_mirrored]
    signals     a pair        signals      pair_id + the columns of one scorer
    near        two images    dedup        sha256_a sha256_b similarity
    decisions   a planned row select       pair_id kept reason reasons duplicate_of duplicate_similarity
    matches     a dropped row select       pair_id set item similarity

Within a part the row order of every table is fixed. Rows of plan are sorted by (image_id, pair_id, source_row);
`decisions` has the same rows in the same order. Tables by image hold each distinct image of plan once, sorted by
image_id. Tables by pair hold plan's rows without the `repeated` ones, in plan's order: each distinct pair once, unless
a list's own `uid` names several images.

An image that could not be fetched or decoded keeps its row, with nulls.
"""

import hashlib
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

ID = pa.binary(16)

FETCHED = "success"
"""`images.status` of an image that is in the part's tar; every other row has status `failed`."""

FETCH = "fetch:"
"""The prefix of a drop reason given by fetch; an error class follows."""

ERROR_CLASSES: Mapping[str, str] = {
    "dns": "the host's name did not resolve",
    "timeout": "not received within the deadline",
    "deadline": "not received before its part's deadline",
    "refused": "the host refused the connection",
    "tls": "no trusted TLS connection could be made",
    "connection": "the connection broke",
    "http_4xx": "the server answered 4xx: gone or forbidden",
    "http_5xx": "the server answered 5xx: it failed",
    "http_other": "the server answered with an unexpected status: not 200, 203, a redirect, 4xx or 5xx",
    "redirect": "too many redirects, or one that cannot be followed",
    "bad_url": "not a URL that may be fetched",
    "blocked_address": "an address on a private or reserved network",
    "opt_out": "the server forbids use for training",
    "host_busy": "not requested: a limit per host, the host's Retry-After, or too many refusals in a row",
    "known_url": "not requested: an earlier result has its URL",
    "blocked_digest": "the file's digest is on one of the recipe's blocklists",
    "blocked_phash": "the picture looks like one on the recipe's blocklists of perceptual hashes",
    "changed": "its bytes are not those that the list expects by its digests",
    "encoding": "the body has a content or transfer encoding that is not decoded",
    "too_large": "more bytes, pixels, JPEG scans or metadata than is allowed",
    "not_an_image": "something other than an image",
    "undecodable": "a broken image file",
    "no_image": "the sample has no image",
    "ambiguous": "the sample has several images, or its key or URL comes again with another image",
    "internal": "a fault of the fetcher",
}
"""Why an image was not fetched (`images.error_class`), with the text for report, card and terminal; the drop reason is
`fetch:<error_class>`. `no_image` and `ambiguous` occur with `source.kind: samples` only."""

HEALING_CLASSES = (
    "dns",
    "timeout",
    "deadline",
    "refused",
    "connection",
    "http_5xx",
    "host_busy",
    "internal",
)
"""Error classes that may succeed when fetched again later; `curate retry-failed` retries these by default."""

SIMILARITY = "clip_similarity"
MIRRORED = "clip_similarity_mirrored"
"""Columns of a model's text_… table: the cosine of image and caption, and, where the recipe asks for it, of the
mirrored image and caption. A recipe and its results name them `<column>_<model>`; for the first model of the recipe the
plain name works too."""

NOT_SAMPLED = "not_sampled"
REPEATED = "repeated"
UNDECODABLE = "undecodable"
NO_CAPTION = "no_caption"
REASONS_BEFORE: Mapping[str, str] = {
    NOT_SAMPLED: "beyond the rows that --sample covers",
    REPEATED: "the same pair (URL and caption, or uid) is in another row of the list",
    UNDECODABLE: "fetched, but no picture could be decoded from it",
    NO_CAPTION: "its caption is empty, where the source has captions",
}
"""Drop reasons given before all steps, besides `fetch:<error_class>`, with their texts; no step may take these."""

PLAN = pa.schema(
    [
        pa.field("pair_id", ID, nullable=False),
        pa.field("image_id", ID, nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("source_row", pa.int64(), nullable=False),
        pa.field("repeated", pa.bool_(), nullable=False),
    ]
)
"""The columns of plan, without those passed through from the list, which follow as `source_<name>` with the list's
types."""

EXPECTED = ("expected_sha256", "expected_md5")
"""Columns of plan after those passed through, text, where the recipe names `source.sha256` or `source.md5`: the digest
that the list expects of the image's bytes, in lower-case hex digits; null where it expects none."""

SAMPLE = pa.schema(
    [
        pa.field("sample_place", pa.int32(), nullable=False),
        ("sample_member", pa.string()),
        ("sample_offset", pa.int64()),
        ("sample_bytes", pa.int64()),
        ("sample_fault", pa.string()),
    ]
)
"""The location of a sample's image; the last columns of plan where `source.kind` is samples. `sample_place` is the
0-based number of the tar or folder in the run's identity; `sample_member` is the tar member, or the file below the
folder, percent-encoded; `sample_offset` counts from the tar's first byte. Where the image of a sample cannot be
determined, `sample_fault` holds an error class, a colon and a message, and the three columns before it are null."""

CHECKSUM = "crc32"

IMAGES = pa.schema(
    [
        pa.field("image_id", ID, nullable=False),
        ("status", pa.string()),
        ("error_class", pa.string()),
        ("error", pa.string()),
        ("http_status", pa.int32()),
        ("host", pa.string()),
        ("bytes", pa.int64()),
        ("milliseconds", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("sha256", pa.string()),
        (CHECKSUM, pa.uint32()),
        ("file", pa.string()),
    ]
)
"""`bytes` and `sha256` (hex) describe the received body, `width` and `height` the stored picture, which is the tar
member `file`: `<image_id hex>.<jpg|png|webp>`. `crc32` is the CRC-32 of that member's bytes, which every reader of the
tar compares; predicates and the result do not have it."""

PIXELS = pa.schema(
    [
        pa.field("image_id", ID, nullable=False),
        ("decoded", pa.bool_()),
        ("phash", pa.string()),
        ("brightness", pa.float32()),
        ("contrast", pa.float32()),
        ("colorfulness", pa.float32()),
        ("sharpness", pa.float32()),
    ]
)
"""`decoded` is null where no image was fetched. `phash`: 16 hex digits of a 64-bit DCT hash.
`brightness`, `contrast`: mean and standard deviation of luma, 0 to 255. `colorfulness`: Hasler and
Süsstrunk's M3 at 128 pixels or a little more. `sharpness`: variance of the Laplacian of luma at 224 × 224 pixels.

The stored picture is measured, reduced where its shorter side has 896 pixels or more: a JPEG is decoded at the smallest
of 1/2, 1/4 and 1/8 that leaves that side 448 pixels or more, then any picture is shrunk by the largest whole factor
that does."""

NEAR = pa.schema(
    [
        pa.field("a", pa.int32(), nullable=False),
        pa.field("b", pa.int32(), nullable=False),
        pa.field("similarity", pa.float64(), nullable=False),
    ]
)
"""The rows of two nodes in the blocks of a tile: `a` in the first block, `b` in the second (`curate.near`). Nodes
ascend by digest, so the digest of `a` is the smaller one. Images with equal digests are one node, so the table stays
small where a list has many copies."""

DENSE = pa.schema(
    [
        pa.field("block", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
    ]
)
"""Dense nodes (`curate.near`), ascending; the file of the whole search also has `value`, whose type is in its
metadata."""

DECISIONS = pa.schema(
    [
        pa.field("pair_id", ID, nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        ("reason", pa.string()),
        ("reasons", pa.list_(pa.string())),
        ("duplicate_of", ID),
        ("duplicate_similarity", pa.float64()),
    ]
)
"""`reason` is null for a kept pair. `reasons`: every row-wise step that alone would drop the pair."""

MATCHED = pa.schema(
    [
        pa.field("pair_id", ID, nullable=False),
        pa.field("set", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("similarity", pa.float64(), nullable=False),
    ]
)
"""The pairs that a step dropped because their image matches an item of a set, in the order of plan's rows."""


def reason_words(reason: str) -> str:
    """Returns the text, one line, of a drop reason that is given before all steps.

    Raises:
        KeyError: no such reason is given before the steps.
    """
    return ERROR_CLASSES[reason.removeprefix(FETCH)] if reason.startswith(FETCH) else REASONS_BEFORE[reason]


def embedding(dim: int) -> pa.DataType:
    """Returns the type of an embedding column: Arrow's fixed-size list, float16[dim], which every reader supports."""
    return pa.list_(pa.float16(), dim)


def clean_caption(caption: str | None) -> str:
    """Returns a caption in the form that is stored and hashed: null becomes '', lone surrogates become U+FFFD."""
    if not caption:
        return ""
    return caption.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def has_caption(captions: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Whether captions, stored as text without nulls, hold anything but white space."""
    return pc.not_equal(pc.utf8_trim_whitespace(captions), "")


def image_id(url: str) -> bytes:
    """Returns the id of an image: blake2b-128 of the URL's UTF-8 bytes."""
    return hashlib.blake2b(url.encode(), digest_size=16).digest()


def pair_id(url: str, caption: str) -> bytes:
    """Returns the id of a pair: blake2b-128 of url + NUL + caption in UTF-8, the caption cleaned (`clean_caption`)."""
    return hashlib.blake2b(f"{url}\0{caption}".encode(), digest_size=16).digest()


def part_of(image: bytes, seed: int, n_parts: int) -> int:
    """Returns the number of the part that holds an image: the same for every run of one identity, on every machine."""
    digest = hashlib.blake2b(image, digest_size=8, key=seed.to_bytes(8, "big")).digest()
    return int.from_bytes(digest, "big") % n_parts
