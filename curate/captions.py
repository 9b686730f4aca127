"""The normal form of captions: captions whose normal forms are equal count as the same text.

In this order: format characters (Unicode's category Cf: zero-width characters, soft hyphens, direction marks) are
removed; the text is folded as for Unicode's compatibility caseless match (The Unicode Standard, section 3.13, D146), so
that case, full-width letters, ligatures and the way accents are composed do not count; each run of white space becomes
one space; white space and quotation marks around the text, and punctuation at the end of a sentence after it, are
removed. A text of nothing else keeps these marks. Accents, digits and punctuation inside the text count.

COYO-700M collapses and strips white space before it compares texts (github.com/kakaobrain/coyo-dataset); the other
rules add what differs between sites that show the same text.
"""

import hashlib
from collections.abc import Callable
from unicodedata import category, normalize

import pyarrow as pa
import pyarrow.compute as pc

QUOTES = "\"'‘’‚‛“”„‟«»‹›「」『』"
"""Quotation marks that are removed around a text."""

ENDS = ".,;:!?。、،؛؟।"
"""Punctuation that is removed at the end of a text; full-width forms become these when the text is folded."""


def normal_form(text: str) -> str:
    """Returns the normal form of a caption; empty only where it has nothing but white space and format characters."""
    folded = text.lower() if text.isascii() else _folded(text)
    plain = " ".join(folded.split())
    return plain.rstrip(f"{ENDS}{QUOTES} ").lstrip(f"{QUOTES} ") or plain


def caption_digests(captions: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Returns the sha256 of captions in UTF-8, as 64 hex digits; null where a caption is."""
    return _mapped(captions, _sha256)


def normal_form_digests(captions: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Returns the sha256 of the normal forms of captions in UTF-8, as 64 hex digits; null where a caption is."""
    return _mapped(captions, lambda text: _sha256(normal_form(text)))


def _folded(text: str) -> str:
    """Folds a text; two texts are a compatibility caseless match where the results are equal."""
    if not text.isprintable():  # quick: no format character is printable
        text = "".join(character for character in text if category(character) != "Cf")
    return normalize("NFKD", normalize("NFKD", normalize("NFD", text).casefold()).casefold())


def _mapped(captions: pa.Array | pa.ChunkedArray, digest: Callable[[str], str]) -> pa.Array:
    """Returns a text for each caption, computed once for each distinct one."""
    flat = captions.combine_chunks() if isinstance(captions, pa.ChunkedArray) else captions
    encoded = pc.dictionary_encode(flat)
    texts = encoded.dictionary.to_pylist()
    return pa.array(map(digest, texts), pa.string(), size=len(texts)).take(encoded.indices)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
