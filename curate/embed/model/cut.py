"""Cuts captions and prompts to the length that every tokenizer reads in bounded time.

A tokenizer's work is not linear in its text: byte-pair merges are quadratic in a word, and ftfy, which open_clip cleans
text with, reads the whole text once for each level of nested HTML escapes (`&amp;amp;amp;…`).
"""

import re

from ftfy import fixes

from curate.errors import counted
from curate.store import Outputs

MOST_CHARACTERS = 10_000
"""Characters of a caption that are read."""

MOST_IN_WORD = 1_000
"""Characters of a word that are read; words are separated by white space."""

MOST_NESTED = 8
"""Levels of nested HTML escapes that are resolved; a word's escapes that are nested deeper are left out."""

_WORD = re.compile(r"\S+")
_ESCAPES = re.compile(rf"[&＆](?:[^ \t\r\n;；&＆]*[;；]){{{MOST_NESTED + 1},}}")
"""What may be nested too deep: several ends of escapes after one ampersand. ftfy also reads full-width characters."""


def cut(text: str) -> str:
    """Returns a text within the bounds above: the text itself, unless it exceeds one."""
    text = text[:MOST_CHARACTERS]
    if len(text) > MOST_IN_WORD:
        text = _WORD.sub(lambda word: word[0][:MOST_IN_WORD], text)
    return _ESCAPES.sub(lambda escapes: "" if _is_too_deep(escapes[0]) else escapes[0], text)


def note_cut(number: int, what: str, output: Outputs) -> None:
    """Counts texts that were cut in a marker's `shortened`, with a note; `what` is `caption` or `prompt`."""
    if number:
        output.counts["shortened"] = number
        output.notes.append(
            f"{counted(number, what)} cut before tokenizing: longer than {MOST_CHARACTERS:,} characters, a word of "
            f"more than {MOST_IN_WORD:,}, or HTML escapes nested more than {MOST_NESTED} deep"
        )


def _is_too_deep(escapes: str) -> bool:
    # What ftfy removes between the letters of an escape (control characters, terminal escapes, wrongly decoded marks)
    # is removed first: after that, the escape is one.
    text = re.sub(r"[^!-~]", "", fixes.fix_character_width(fixes.remove_terminal_escapes(escapes)))
    for _ in range(MOST_NESTED):
        text, before = fixes.unescape_html(text), text
        if text == before:
            return False
    return True
