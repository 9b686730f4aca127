"""What a pair is: the tables of a run, in one place.

One *image* is one URL and is fetched once; one *pair* is an image and a caption. A planned row is a row of the source
with one caption: a source row with several captions is planned as several, which share their `source_row`.

    table       a row is      written by   columns
    ---------   -----------   ----------   -------------------------------------------------------------
    plan        a planned row plan         pair_id image_id url caption source_row repeated source_*
                                           (of samples also sample_*)
    images      an image      fetch        image_id status error_class error http_status host bytes
                                           milliseconds width height original_width original_height
                                           sha256 file
    pixels      an image      embed        image_id decoded phash brightness contrast colorfulness sharpness
    image_…     an image      embed        image_id image_embedding
    text_…      a pair        embed        pair_id text_embedding clip_similarity [clip_similarity_mirrored]
    signals     a pair        signals      pair_id + the columns of one scorer
    near        two images    dedup        sha256_a sha256_b similarity
    decisions   a planned row select       pair_id kept reason reasons duplicate_of duplicate_similarity

Within a part every table stands in one order. Rows of plan are sorted by (image_id, pair_id, source_row);
`decisions` has plan's rows one for one. Tables by image hold each distinct image of plan once, sorted by
image_id; tables by pair hold plan's rows without the `repeated` ones, in plan's order: each distinct pair
once, unless a list's own `uid` names several images.

An image that fetch or decoding lost keeps its row, with nulls.
"""

import hashlib
from collections.abc import Mapping

import pyarrow as pa

ID = pa.binary(16)

FETCHED = "success"
"""`images.status` of an image that is in the part's tar; every other row has status `failed`."""

FETCH = "fetch:"
"""What a reason begins with that fetch gives; an error class follows."""

ERROR_CLASSES: Mapping[str, str] = {
    "dns": "the host's name did not resolve",
    "timeout": "not received within the deadline",
    "deadline": "not received before its part's time was up",
    "refused": "the host refused the connection",
    "tls": "no trusted connection could be made",
    "connection": "the connection broke",
    "http_4xx": "the server answered 4xx: gone or forbidden",
    "http_5xx": "the server answered 5xx: it failed",
    "http_other": "the server answered with another status",
    "redirect": "too many redirects, or one that cannot be followed",
    "bad_url": "not a URL that may be fetched",
    "blocked_address": "an address on a private or reserved network",
    "opt_out": "the server forbids use for training",
    "host_busy": "the host was left alone: its limits, its wish, or too many refusals",
    "blocked_digest": "a file that the recipe's blocklists name",
    "encoding": "the body's encoding cannot be undone",
    "too_large": "more bytes, pixels or JPEG scans than the recipe allows",
    "not_an_image": "something other than an image",
    "undecodable": "a broken image file",
    "no_image": "the sample has no image",
    "ambiguous": "the sample has several images, or its key or URL comes again with another image",
    "internal": "a fault of the fetcher",
}
"""Why an image was not fetched (`images.error_class`), with the words of report, card and terminal; the drop reason is
`fetch:<error_class>`. `no_image` and `ambiguous` are of samples alone."""

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
"""Classes that may be another one when they are tried again later; what `curate retry-failed` takes by itself."""

SIMILARITY = "clip_similarity"
MIRRORED = "clip_similarity_mirrored"
"""Columns of a model's text_… table: the cosine of image and caption, and, where the recipe asks for it, of the
mirrored image and caption. Of a recipe's models they are called `<column>_<model>`; the first one's also go without."""

REPEATED = "repeated"
UNDECODABLE = "undecodable"
REASONS_BEFORE: Mapping[str, str] = {
    REPEATED: "the same pair (URL and caption, or uid) stands in another row of the list",
    UNDECODABLE: "fetched, but no picture could be decoded from it",
}
"""Reasons given before all steps, besides `fetch:<error_class>`, with their words; a step may not take their names."""

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
"""Without the passed-through columns, which follow as `source_<name>` with the types they came with."""

SAMPLE = pa.schema(
    [
        pa.field("sample_place", pa.int32(), nullable=False),
        ("sample_member", pa.string()),
        ("sample_offset", pa.int64()),
        ("sample_bytes", pa.int64()),
        ("sample_fault", pa.string()),
    ]
)
"""Where the image of a sample lies; the last columns of plan where `source.kind` is samples. `sample_place` counts
the places of the run's identity from 0; `sample_member` is the tar member, or the file below the folder,
percent-encoded; `sample_offset` counts from the tar's first byte. `sample_fault`: an error class, a colon and words,
where the image cannot be told; the three before it are null then."""

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
        ("file", pa.string()),
    ]
)
"""`bytes` and `sha256` (hex) are of what was received; `width`, `height` of what was stored as `file`, the
tar member `<image_id hex>.<jpg|png|webp>`."""

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
"""`decoded` is null where there was nothing to decode. `phash`: 16 hex digits of a 64-bit DCT hash.
`brightness`, `contrast`: mean and standard deviation of luma, 0 to 255. `colorfulness`: Hasler and
Süsstrunk's M3 at 128 pixels or a little more. `sharpness`: variance of the Laplacian of luma at 224 × 224 pixels.

Measured on the stored picture, but for large ones: where the shorter side has 896 pixels or more, a JPEG is decoded at
the smallest of 1/2, 1/4 and 1/8, and any picture then shrunk by the largest whole factor, that leave 448 or more."""

NEAR = pa.schema(
    [
        pa.field("sha256_a", pa.string(), nullable=False),
        pa.field("sha256_b", pa.string(), nullable=False),
        pa.field("similarity", pa.float64(), nullable=False),
    ]
)
"""sha256_a < sha256_b; equal digests are one node, so that the table stays small on corpora of copies."""

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
"""`reason` is null for a kept pair. `reasons`: the row-wise steps that would drop the pair by themselves."""


def reason_words(reason: str) -> str:
    """What a reason given before all steps means, in one line.

    Raises:
        KeyError: no such reason is given before the steps.
    """
    return ERROR_CLASSES[reason.removeprefix(FETCH)] if reason.startswith(FETCH) else REASONS_BEFORE[reason]


def embedding(dim: int) -> pa.DataType:
    """The type of an embedding column: plain Arrow float16[dim], which every reader understands."""
    return pa.list_(pa.float16(), dim)


def clean_caption(caption: str | None) -> str:
    """A caption as it is identified and stored: null is '', lone surrogates become U+FFFD."""
    if not caption:
        return ""
    return caption.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def image_id(url: str) -> bytes:
    """blake2b-128 of the URL's UTF-8."""
    return hashlib.blake2b(url.encode(), digest_size=16).digest()


def pair_id(url: str, caption: str) -> bytes:
    """blake2b-128 of url + NUL + caption, both UTF-8; of cleaned text (`clean_caption`)."""
    return hashlib.blake2b(f"{url}\0{caption}".encode(), digest_size=16).digest()


def part_of(image: bytes, seed: int, n_parts: int) -> int:
    """The part that holds an image: the same for every run of one identity, on every machine."""
    digest = hashlib.blake2b(image, digest_size=8, key=seed.to_bytes(8, "big")).digest()
    return int.from_bytes(digest, "big") % n_parts
