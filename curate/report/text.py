"""How hostile text and numbers are written, on the page and in the terminal."""

from collections.abc import Iterator
from itertools import groupby

JOINERS = "\u200c\u200d"
"""Invisible, yet needed to write Persian and emoji, and harmless: they reorder and hide nothing."""


def plain(text: str, limit: int | None = None) -> str:
    r"""Text that can do nothing to a terminal or to the line it stands in.

    Characters that move the cursor, reorder or hide text (controls, bidi overrides, unassigned and private
    ones, line separators) appear as Python writes them: `\x1b`, `\u202e`. Spaces of all kinds become a space.

    Args:
        text: anything, lone surrogates included.
        limit: the most characters of the result; a longer one ends in `…` and the text's true length.
    """
    return "".join(piece for piece, _ in pieces(text, limit))


def pieces(text: str, limit: int | None = None) -> Iterator[tuple[str, bool]]:
    """The pieces of `plain(text, limit)`, each with whether it stands for hostile characters."""
    tail = ""
    if limit is not None and len(text) > limit:
        tail = f"… ({count(len(text))} characters)"
        text = text[:limit]
    # An escape is up to ten characters long, so that the limit is applied to what is shown as well.
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
    """A count with its thousands parted: 12,345."""
    return f"{number:,}"


def percent(part: float, whole: float) -> str:
    """A share in percent that says 0 and 100 only where it is exactly that; – of nothing."""
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
    """Bytes in decimal units: 1.2 MB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} PB"


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.04 s, 2.5 s, 75 s, 12 min, 3 h 20 min, 2 d 4 h."""
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
    """Something per second with three digits at least: 0.52, 31.4, 1,250."""
    for below, digits in ((1, 2), (100, 1)):
        if number < below:
            return f"{number:.{digits}f}"
    return f"{number:,.0f}"
