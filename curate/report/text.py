"""Formats hostile text and numbers, for the page and the terminal."""

from collections.abc import Iterator
from itertools import groupby

JOINERS = "\u200c\u200d"
"""Invisible characters that are left as they are: Persian and emoji need them, and they reorder and hide nothing."""


def plain(text: str, limit: int | None = None) -> str:
    r"""Returns text that cannot affect a terminal or the line around it.

    Characters that move the cursor, reorder or hide text (controls, bidi overrides, unassigned and private
    ones, line separators) appear as Python writes them: `\x1b`, `\u202e`. Spaces of all kinds become a space.

    Args:
        text: anything, lone surrogates included.
        limit: the largest number of characters; a longer text ends in `…` and its full length.
    """
    return "".join(piece for piece, _ in pieces(text, limit))


def pieces(text: str, limit: int | None = None) -> Iterator[tuple[str, bool]]:
    """Yields the pieces of `plain(text, limit)`, each with whether it represents hostile characters."""
    tail = ""
    if limit is not None and len(text) > limit:
        tail = f"… ({count(len(text))} characters)"
        text = text[:limit]
    # An escape is up to ten characters long, so the limit is also applied to what is shown.
    left = len(text) * 10 if limit is None else limit
    for hostile, run in groupby(text, _is_hostile):
        if left <= 0:
            tail = tail or "…"
            break
        shown = "".join(_escape(char) if hostile else _spaced(char) for char in run)
        yield shown[:left], hostile
        left -= len(shown)
    if left < 0:
        tail = tail or "…"
    if tail:
        yield tail, False


def _is_hostile(char: str) -> bool:
    return not (char.isprintable() or char in JOINERS or _spaced(char) == " ")


def _spaced(char: str) -> str:
    return " " if char.isspace() and ord(char) >= 0xA0 and char not in "\u2028\u2029" else char


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


def count(number: int) -> str:
    """Returns a count with thousands separators: 12,345."""
    return f"{number:,}"


def percent(part: float, whole: float) -> str:
    """Returns a share in percent, `0 %` and `100 %` only where the share is exact; `–` where the whole is 0."""
    if not whole:
        return "–"
    share = 100 * part / whole
    shown = f"{share:.1f}"
    if shown == "0.0" and part:
        return "< 0.1 %"
    if shown == "100.0" and part != whole:
        return "> 99.9 %"
    return f"{shown.removesuffix('.0') if shown in ('0.0', '100.0') else shown} %"


def size(number: float) -> str:
    """Returns bytes in decimal units: 1.2 MB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} PB"


def duration(seconds: float) -> str:
    """Returns a readable duration: 0.04 s, 2.5 s, 75 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def rate(number: float) -> str:
    """Returns a rate per second with two or three significant digits, and all digits above: 0.52, 31.4, 1,250."""
    for below, digits in ((1, 2), (100, 1)):
        if number < below:
            return f"{number:.{digits}f}"
    return f"{number:,.0f}"
