"""The kinds of rows in the demo's list: the share of each, and whether it should be kept or dropped.

A kind is the fault that is planted in a row. Its truth has three values: `keep` (a curator must keep it), `drop` (must
drop it) and `may` (both are right). `expected` names the family of the reason for which it should be dropped;
`fetch:<error_class>` are the classes of `curate.schema.ERROR_CLASSES`.
"""

from dataclasses import dataclass
from typing import Literal, get_args

Truth = Literal["keep", "drop", "may"]

KindName = Literal[
    "clean",
    "redirect",
    "wrong_caption",
    "half_wrong_caption",
    "boilerplate",
    "file_name",
    "url_caption",
    "empty_caption",
    "exact_copy",
    "near_reencoded",
    "near_resized",
    "near_cropped",
    "near_brightened",
    "two_captions",
    "repeated",
    "watermark",
    "only_text",
    "blank",
    "tiny",
    "http_404",
    "http_500",
    "timeout",
    "trickle",
    "refused",
    "unknown_host",
    "opt_out",
    "redirect_private",
    "redirect_loop",
    "web_page",
    "truncated",
    "endless",
    "bomb",
]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of row.

    Attributes:
        share: Share of all rows, 0 to 1; 0 for `clean`, which gets the remaining rows.
        truth: The right decision on the row, before copies and accidental look-alikes are considered.
        expected: Family of the reason for which it should be dropped; None for a row to keep.
        means: Description of the fault, for reports.
    """

    share: float
    truth: Truth
    expected: str | None
    means: str


KINDS: dict[KindName, Kind] = {
    "clean": Kind(0.0, "keep", None, "a picture and a caption that is true of it"),
    "redirect": Kind(0.01, "keep", None, "clean, behind a redirect"),
    "wrong_caption": Kind(0.14, "drop", "mismatched", "a caption of some other picture"),
    "half_wrong_caption": Kind(0.04, "may", "mismatched", "a caption with one wrong detail"),
    "boilerplate": Kind(0.03, "drop", "caption", "a caption that fits any picture"),
    "file_name": Kind(0.025, "drop", "caption", "a file name for a caption"),
    "url_caption": Kind(0.015, "drop", "caption", "a link for a caption"),
    "empty_caption": Kind(0.01, "drop", "no_caption", "no caption"),
    "exact_copy": Kind(0.03, "may", "same_image", "the same bytes under another URL"),
    "near_reencoded": Kind(0.012, "may", "near_image", "a picture re-encoded at lower quality"),
    "near_resized": Kind(0.012, "may", "near_image", "a picture at another size"),
    "near_cropped": Kind(0.008, "may", "near_image", "a picture cropped by 5 %"),
    "near_brightened": Kind(0.008, "may", "near_image", "a picture made brighter"),
    "two_captions": Kind(0.01, "may", "same_image", "one URL with two true captions"),
    "repeated": Kind(0.01, "drop", "repeated", "a row that is in the list already"),
    "watermark": Kind(0.04, "drop", "watermark", "a watermark across the picture"),
    "only_text": Kind(0.025, "drop", "only_text", "a picture of nothing but its caption's text"),
    "blank": Kind(0.01, "drop", "blank", "a picture of one colour"),
    "tiny": Kind(0.02, "drop", "small", "a thumbnail of at most 40 pixels"),
    "http_404": Kind(0.03, "drop", "fetch:http_4xx", "gone"),
    "http_500": Kind(0.01, "drop", "fetch:http_5xx", "a server that fails"),
    # The slow ones are few: each holds a connection until the fetcher's deadline or byte cap.
    "timeout": Kind(0.002, "drop", "fetch:timeout", "a server that accepts connections and never answers"),
    "trickle": Kind(0.001, "drop", "fetch:timeout", "a body of two bytes a second"),
    "refused": Kind(0.004, "drop", "fetch:refused", "an address on which no server listens"),
    "unknown_host": Kind(0.006, "drop", "fetch:dns", "a host name that does not exist"),
    "opt_out": Kind(0.01, "drop", "fetch:opt_out", "a header that forbids the use for training"),
    "redirect_private": Kind(0.003, "drop", "fetch:blocked_address", "a redirect into a private network"),
    "redirect_loop": Kind(0.002, "drop", "fetch:redirect", "a redirect to itself"),
    "web_page": Kind(0.01, "drop", "fetch:not_an_image", "a web page in an image's place"),
    "truncated": Kind(0.006, "drop", "fetch:undecodable", "half of a file"),
    "endless": Kind(0.003, "drop", "fetch:too_large", "a body without an end"),
    "bomb": Kind(0.002, "drop", "fetch:too_large", "110 KB that decode to 900 megapixels"),
}
"""The kinds in the order of reports. For copies the truth table's `copy_group` refines `may`: one of each group must be
kept."""

COPIES: frozenset[KindName] = frozenset(
    ("exact_copy", "near_reencoded", "near_resized", "near_cropped", "near_brightened")
)
"""Kinds whose rows show the picture of another row under a URL of their own."""

SHARES_URL: frozenset[KindName] = frozenset(("two_captions", "repeated"))
"""Kinds whose rows have the URL of another row."""

assert set(KINDS) == set(get_args(KindName))
EVERY_KIND_FROM = 300
"""A list with at least this many rows has every kind; a shorter one may lack the rare kinds."""


def counts(pairs: int) -> dict[KindName, int]:
    """Returns the number of rows of each kind in a list of `pairs` rows; the sum is `pairs`.

    For `two_captions` it is the number of second captions; the rows with the first captions are taken from `clean`.
    """
    least = 1 if pairs >= EVERY_KIND_FROM else 0
    planted = {name: max(least, int(pairs * kind.share)) for name, kind in KINDS.items() if kind.share}
    return {"clean": pairs - sum(planted.values()), **planted}
