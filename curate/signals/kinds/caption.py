"""Caption rules: columns computed from the caption's text alone, without a model, a whole column at a time.

A share is null where its divisor is 0: a caption without letters has no upper-case share.
"""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from curate.keys import Keys
from curate.signals.contract import Columns, Signal, Task

COLUMNS: Mapping[str, pa.DataType] = {
    "caption_chars": pa.int32(),
    "caption_words": pa.int32(),
    "caption_letters": pa.float32(),
    "caption_upper": pa.float32(),
    "caption_digits": pa.float32(),
    "caption_is_url": pa.bool_(),
    "caption_is_file_name": pa.bool_(),
    "caption_is_boilerplate": pa.bool_(),
    "caption_repetition": pa.float32(),
}
"""`chars` counts code points; `words` is described below; `letters` is the share of letters among the characters that
are not white space, `digits` that of decimal digits among the same, `upper` that of capitals among letters,
`repetition` that of words which occurred earlier in the caption, in whatever case. `repetition` is null where a caption
has letters of `_LETTERS`: each of these counts as a word, and repeated letters are no sign of repetition."""

_LETTERS = r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Ahom}]"
_NUMBERS = "[๐-๙໐-໙០-៩၀-၉႐-႙]+"
_KATAKANA = r"\p{Katakana}\x{3031}-\x{3035}゛゜゠ーｰ"
_ON_LETTERS = r"\pMﾞﾟ"
_ALONE = (
    rf"({_NUMBERS}|[{_KATAKANA}][{_KATAKANA}{_ON_LETTERS}]*|(?:[\p{{Han}}\p{{Hiragana}}]|{_LETTERS})[{_ON_LETTERS}]*)"
)
"""Words are separated by white space and contain a letter or a digit. Scripts that are written without spaces are
divided further, by Unicode's word boundaries without a dictionary (UAX #29): every Han ideograph and hiragana, every
run of katakana, and every letter of Thai, Lao, Khmer, Burmese and their relatives is a word, with the marks on it. A
reader of Thai counts about a third of these words, one of Chinese or Japanese about two thirds."""

_PUNCTUATION = r"\x{3001}-\x{3003}\x{3008}-\x{3011}\x{3014}-\x{301f}\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff20}\x{ff3b}-\x{ff65}"
_MARKS = rf"[་༌፡\x{{200b}}{_PUNCTUATION}]"
"""Characters that separate words as white space does: the word marks of Tibetan and Ethiopic, the zero-width space of
South-East Asia, East Asian punctuation."""

BOILERPLATE_WHOLE = (
    "add to (?:basket|bag|cart|favou?rites|wish ?list)",
    "advertise?ments?",
    "(?:all )?rights reserved",
    "(?:alt|alternative|placeholder) text",
    "avatar",
    "banner(?: image)?",
    "buy now",
    "(?:company |site |website )?logo",
    "cover(?: image| photo)?",
    "default(?: image| photo)?",
    "download(?: now)?",
    "(?:embedded|featured?|full size|gallery|header|hero|main|post|product|profile|user) (?:image|photo|picture)s?",
    "follow us",
    "icon",
    "(?:fig|figure|image|img|photo|pic|picture|preview|screenshot|slide|thumb|thumbnail)s?(?: [0-9]+)?",
    "(?:image |photo |picture )?coming soon",
    "(?:image|photo|picture|preview|thumbnail) (?:is )?(?:not |un)(?:available|found)",
    "learn more",
    "(?:image )?loading(?: image)?(?: please wait)?|please wait",
    "more info(?:rmation)?",
    "n a|nan|none|null|undefined",
    "next|prev|previous|close|menu|search|home",
    "no (?:alt text|caption|description|image|photo|picture|preview|thumbnail|title)(?: available| found| yet)?",
    "photo (?:by|credit|courtesy)",
    "placeholder(?: image)?",
    "play(?: video)?",
    "powered by",
    "quick (?:look|view)",
    "read more",
    "(?:royalty free )?stock (?:footage|illustration|image|photo|photography|picture|vector)s?(?: [0-9]+)?",
    "(?:see|show|view) (?:all|full image|full size|larger|more)",
    "share(?: this)?",
    "spacer|pixel|blank|separator",
    "subscribe(?: now)?",
    "thumbnail image",
    "untitled(?: design| document| image| [0-9]+)?",
    "video(?: thumbnail)?",
    "zoom(?: in| out)?",
)
"""Regular expressions of captions that are boilerplate where they match the whole caption.

They are matched against the caption in lower case, with one space for whatever is neither letter nor digit."""

BOILERPLATE_START = (
    "click (?:for|here|image|on|photo|picture|the|to)(?: |$)",
    "(?:hover|roll over|tap) (?:image )?to (?:enlarge|expand|open|see|view|zoom)",
    "(?:image|photo|picture) may contain ",
    "may be an? (?:[a-z]+ ){0,3}of ",
    "(?:this )?(?:image|photo|picture) (?:is )?(?:currently un|no longer |not )available",
    "(?:open|see|show|view) (?:a |the )?(?:bigger|full|full size|larger) (?:image|photo|picture|size|version|view)",
    "share (?:on|to|via) ",
    "this (?:image|photo|picture) has been (?:deleted|removed)",
    "your browser does not support",
)
"""Regular expressions that mark a caption as boilerplate where they match its beginning."""

_IMAGE_FILE = r"(?:jpe?g|jpe|jfif|png|gif|webp|bmp|tiff?|svg|heic|heif|avif|ico|psd|raw|cr2|nef|arw)"
_CAMERA = r"(?:img|imgp|image|dsc|dscn|dscf|dcim|pict|pic|photo|scan|screenshot|mvi|pxl|sam|gopr|wp|hpim|100)"


class Caption(Signal[Keys]):
    """The kind `caption`: the columns that every run has."""

    name = prefix = "caption"
    version = 3
    about = "Rules over captions."
    reads_captions = True
    reads_embeddings = False

    def columns(self, scorer: str) -> Columns:  # noqa: ARG002
        """Returns `COLUMNS`."""
        return COLUMNS

    def score(self, task: Task) -> Mapping[str, pa.Array]:
        """The columns for a part's pairs, from their `caption`."""
        return measure(task.pairs["caption"])


SIGNAL = Caption()


def measure(captions: pa.ChunkedArray) -> Mapping[str, pa.Array]:
    """Returns `COLUMNS` for captions, row for row; a null counts as ''."""
    text = captions.cast(pa.large_string()).combine_chunks().fill_null("")
    trimmed = pc.utf8_trim_whitespace(text)
    visible = pc.count_substring_regex(text, r"[^\s\pZ]")
    letters = pc.count_substring_regex(text, r"\pL")
    words, repetition = _words(trimmed)
    is_url = pc.match_substring_regex(
        trimmed,
        r"^(?:(?:https?|ftp)://\S+|www\.\S+|[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}/\S*)$",
        ignore_case=True,
    )
    is_file = pc.match_substring_regex(
        trimmed,
        rf"^(?:\S+(?:\s?\([0-9]+\))?\.{_IMAGE_FILE}|{_CAMERA}[-_]?[0-9]{{3,}}(?:[-_][a-z0-9]+)*)$",
        ignore_case=True,
    )
    plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(text), r"[^\pL\pN]+", " "))
    whole, start = "|".join(BOILERPLATE_WHOLE), "|".join(BOILERPLATE_START)
    is_boilerplate = pc.match_substring_regex(plain, f"^(?:(?:{whole})$|(?:{start}))")
    columns_by_name = {
        "caption_chars": pc.utf8_length(text),
        "caption_words": words,
        "caption_letters": _share(letters, visible),
        "caption_upper": _share(pc.count_substring_regex(text, r"\p{Lu}"), letters),
        "caption_digits": _share(pc.count_substring_regex(text, r"\p{Nd}"), visible),
        "caption_is_url": is_url,
        "caption_is_file_name": pc.and_not(is_file, is_url),
        "caption_is_boilerplate": is_boilerplate,
        "caption_repetition": repetition,
    }
    return {name: columns_by_name[name].cast(kind) for name, kind in COLUMNS.items()}


def _words(trimmed: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Returns the number of words, and the share of words that occurred earlier in the caption."""
    split = pc.utf8_split_whitespace(_spaced(pc.utf8_lower(trimmed)))
    table = pa.table({"row": pc.list_parent_indices(split), "word": pc.list_flatten(split)})
    table = table.filter(pc.match_substring_regex(table["word"], r"[\pL\pN]"))
    by_row = table.group_by("row").aggregate([("word", "count"), ("word", "count_distinct")])
    at = pc.index_in(pa.array(range(len(trimmed)), pa.int64()), value_set=by_row["row"].cast(pa.int64()))
    words = by_row["word_count"].take(at).combine_chunks()
    distinct = by_row["word_count_distinct"].take(at).combine_chunks()
    of_letters = pc.match_substring_regex(trimmed, _LETTERS)
    repetition = _share(pc.subtract(words, distinct), words)
    return words.fill_null(0), pc.if_else(of_letters, pa.scalar(None, repetition.type), repetition)


def _spaced(text: pa.Array) -> pa.Array:
    """Returns the text with white space around words of scripts that are written without it."""
    divided = pc.and_not(pc.match_substring_regex(text, rf"{_ALONE}|{_MARKS}"), pc.string_is_ascii(text))
    spaced = pc.replace_substring_regex(text.filter(divided), _MARKS, " ")
    return pc.replace_with_mask(text, divided, pc.replace_substring_regex(spaced, _ALONE, r" \1 "))


def _share(some: pa.Array, all_of: pa.Array) -> pa.Array:
    """Returns `some / all_of`, null where the divisor is 0 or null."""
    whole = pc.if_else(pc.greater(all_of, 0), all_of, pa.scalar(None, all_of.type))
    return pc.divide(some.cast(pa.float64()), whole.cast(pa.float64()))
