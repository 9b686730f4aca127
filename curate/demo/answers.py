"""The responses of the demo's web server: a picture, or one of the failures of the open web.

A path contains the index of its row. Its picture is drawn at each request and not stored.
"""

import random
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from PIL import Image, ImageEnhance

from curate.demo.corpus import Corpus, Row
from curate.demo.encode import ENCODINGS, bomb, low_quality, truncated
from curate.demo.scenes import draw_scene, draw_text_image, with_watermark

Manner = Literal["whole", "silent", "trickle", "endless"]
"""How a response is sent: `whole` at once, `silent` not at all (no status line either), `trickle` one byte every half
second, `endless` without an end."""

MOVED = "/moved"
"""Rows of kind `redirect` are redirected to this prefix plus their own path."""

PRIVATE_TARGETS = ("http://169.254.169.254/latest/meta-data", "http://10.0.0.1/admin.jpg", "http://[fe80::1]/a.jpg")
"""The target of rows of kind `redirect_private`: a private address, which fetch must never connect to."""

_OPT_OUTS = (
    ("X-Robots-Tag", "noai"),
    ("X-Robots-Tag", "noimageai, noai"),
    ("X-Robots-Tag", "noindex"),
    ("X-Robots-Tag", "noimageindex"),
    ("TDM-Reservation", "1"),
)
_PAGE = (
    "<!doctype html><html><head><title>Page not found</title></head>"
    "<body><h1>Sorry!</h1><p>This picture is gone. <a href='/'>Home</a></p></body></html>"
)
_INDEX = re.compile(r"-(\d{1,12})\.[a-z]+$")


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP response; the server adds Content-Length unless the body is endless.

    Attributes:
        status: The HTTP status.
        content_type: The Content-Type of the body.
        body: The body; of an endless one, its beginning.
        headers: Further headers.
        manner: How the response is sent.
    """

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    manner: Manner = "whole"


def answer(corpus: Corpus, path: str) -> Answer:
    """Returns the response to a request for `path`; a path of no row gives a 404."""
    moved = path.startswith(f"{MOVED}/")
    original_path = path.removeprefix(MOVED) if moved else path
    row = _row_at(corpus, original_path)
    if row is None or (moved and row.kind != "redirect"):
        return _page(404)
    rng = corpus.rng("answer", row.index)
    if row.kind == "http_404":
        return _page(rng.choice((404, 404, 410, 403)))
    if row.kind == "http_500":
        return _page(rng.choice((500, 500, 502, 503)))
    if row.kind == "web_page":
        return _page(200)
    if row.kind == "redirect" and not moved:
        return _redirect(rng.choice((301, 302, 307, 308)), f"{_origin(row.url)}{MOVED}{original_path}")
    if row.kind == "redirect_private":
        return _redirect(302, PRIVATE_TARGETS[row.index % len(PRIVATE_TARGETS)])
    if row.kind == "redirect_loop":
        return _redirect(302, row.url)
    content_type = ENCODINGS[row.encoding].content_type
    if row.kind == "timeout":
        return Answer(200, content_type, b"", manner="silent")
    body = bomb() if row.kind == "bomb" else _file(corpus, row)
    if row.kind == "truncated":
        body = truncated(body, rng)
    if row.kind == "trickle":
        return Answer(200, content_type, body, manner="trickle")
    if row.kind == "endless":
        return Answer(200, content_type, body, manner="endless")
    headers = (rng.choice(_OPT_OUTS),) if row.kind == "opt_out" else ()
    return Answer(200, content_type, body, headers)


def picture(corpus: Corpus, row: Row) -> Image.Image:
    """Returns the row's picture before it is encoded: upright RGB of `row.size`."""
    rng = corpus.rng("picture", row.index)
    if row.kind == "blank":
        return Image.new("RGB", row.size, (rng.randrange(256), rng.randrange(256), rng.randrange(256)))
    if row.kind == "only_text":
        return draw_text_image(corpus.text(row.index), row.size, rng)
    if row.kind in ("near_reencoded", "near_resized", "near_cropped", "near_brightened"):
        return _nearly(corpus, row, rng)
    drawn = draw_scene(corpus.scene(row), row.size)
    return with_watermark(drawn, rng) if row.kind == "watermark" else drawn


def _file(corpus: Corpus, row: Row) -> bytes:
    if row.kind == "exact_copy":
        return _file(corpus, corpus.row(row.source))
    image = picture(corpus, row)
    rng = corpus.rng("file", row.index)
    if row.kind == "near_reencoded":
        return low_quality(image, rng)
    return ENCODINGS[row.encoding].encode(image, rng)


def _nearly(corpus: Corpus, row: Row, rng: random.Random) -> Image.Image:
    original = corpus.row(row.source)
    image = draw_scene(corpus.scene(row), original.size)
    if row.kind == "near_resized":
        return image.resize(row.size, Image.Resampling.LANCZOS)
    if row.kind == "near_cropped":
        left = rng.randint(0, image.width - row.size[0])
        top = rng.randint(0, image.height - row.size[1])
        return image.crop((left, top, left + row.size[0], top + row.size[1]))
    if row.kind == "near_brightened":
        return ImageEnhance.Brightness(image).enhance(rng.uniform(1.12, 1.25))
    return image


def _row_at(corpus: Corpus, path: str) -> Row | None:
    match = _INDEX.search(path)
    if match is None or int(match[1]) >= corpus.pairs:
        return None
    row = corpus.row(int(match[1]))
    # Rows with the URL of another row have no path of their own.
    return row if urlsplit(row.url).path == path else None


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _page(status: int) -> Answer:
    return Answer(status, "text/html; charset=utf-8", _PAGE.encode())


def _redirect(status: int, location: str) -> Answer:
    return Answer(status, "text/html; charset=utf-8", b"", (("Location", location),))
