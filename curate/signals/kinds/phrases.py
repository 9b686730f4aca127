"""Lists of words and phrases: counts how many of a list occur in the caption.

Captions and phrases are compared in lower case, with one space for whatever is neither letter nor digit, word by word:
`ad` does not occur in "a bad day". Scripts that put no spaces between words are compared as whole runs of letters.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from curate.errors import RecipeError
from curate.keys import Keys, OptionalPlace, Passage
from curate.signals.contract import Columns, ModelShape, Signal, Task
from curate.store import Json, Store, access_errors


class Phrases(Keys):
    """Words and phrases to look for in captions."""

    phrases: list[Passage] = Field(
        [], description="Words or phrases; case and punctuation are ignored.", max_length=100_000
    )
    file: OptionalPlace = Field(None, description="A UTF-8 text file with more of them, one per line; any fsspec path.")

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.phrases and self.file is None:
            raise ValueError("name some phrases, or a file of them")
        return self


class PhraseCounts(Signal[Phrases]):
    """The kind `phrases`."""

    name = prefix = "phrases"
    version = 1
    about = "Lists of words and phrases: `phrases_<name>` counts how many different ones occur in the caption."
    keys = Phrases
    reads_captions = True
    reads_embeddings = False

    def columns(self, scorer: str) -> Columns:
        """A count."""
        return {scorer: pa.int32()}

    def learn(self, where: str, keys: Phrases, model: ModelShape, endpoint: str | None) -> Json:  # noqa: ARG002
        """The digest of all phrases in their normalised form (`compared`)."""
        phrases = read(where, tuple(keys.phrases), keys.file, endpoint)
        return {"sha256": _digest(phrases)}

    def score(self, task: Task) -> Mapping[str, pa.Array]:
        """The counts, by pair.

        Raises:
            RecipeError: the file can no longer be read, or has changed since the run started.
        """
        keys: Phrases = task.keys
        phrases = read(f"signals.phrases ({task.scorer})", tuple(keys.phrases), keys.file, task.endpoint)
        if _digest(phrases) != task.learned["sha256"]:
            raise RecipeError(f"{keys.file} changed during the run; start it again")
        return {task.scorer: count(task.pairs["caption"], phrases)}


SIGNAL = PhraseCounts()


@functools.lru_cache(maxsize=16)
def read(where: str, phrases: tuple[str, ...], file: str | None, endpoint: str | None) -> tuple[str, ...]:
    """Returns the phrases of a recipe and of its file in their normalised form (`compared`), each once, sorted.

    Raises:
        RecipeError: the file cannot be read or is not UTF-8, or no phrase has a letter or a digit.
    """
    lines: list[str] = list(phrases)
    if file is not None:
        folder, _, name = file.rpartition("/")
        try:
            data = Store(folder or ("/" if file.startswith("/") else "."), endpoint).read(name)
            lines += data.decode("utf-8-sig").splitlines()
        except FileNotFoundError as error:
            raise RecipeError(f"{where}: {file} does not exist") from error
        except UnicodeDecodeError as error:
            raise RecipeError(f"{where}: {file} is not UTF-8 at byte {error.start}; save it as UTF-8") from error
        except access_errors(file) as error:
            raise RecipeError(f"{where}: {file} cannot be read: {' '.join(str(error).split())}") from error
    found = sorted({text for text in compared(pa.array(lines, pa.string())).to_pylist() if text})
    if not found:
        raise RecipeError(f"{where}: no phrase has a letter or a digit")
    return tuple(found)


def compared(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Returns texts in lower case, with one space for whatever is neither letter nor digit."""
    plain = pc.replace_substring_regex(pc.utf8_lower(texts.cast(pa.large_string())), r"[^\pL\pM\pN]+", " ")
    found = pc.utf8_trim_whitespace(plain)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def count(captions: pa.ChunkedArray, phrases: Sequence[str]) -> pa.Array:
    """Returns how many different phrases occur in each caption, int32.

    Args:
        captions: as they are stored; a null has none.
        phrases: in their normalised form (`compared`).
    """
    split = pc.split_pattern(compared(captions).fill_null(""), " ")
    row, word = pc.list_parent_indices(split), pc.list_flatten(split)
    values = pa.array(phrases, pa.large_string())
    longest = max(phrase.count(" ") for phrase in phrases) + 1
    hits = []
    run = word
    for length in range(1, longest + 1):
        if length > 1:
            # One word more: the runs of `length` words that begin at each word and end in the same caption.
            if len(word) < length:
                break
            run = pc.binary_join_element_wise(
                run[: len(word) - length + 1], word[length - 1 :], pa.scalar(" ", pa.large_string())
            )
        begins = row[: len(run)]
        within = pc.equal(begins, row[length - 1 :])
        phrase = pc.index_in(run, value_set=values)
        hits.append(pa.table({"row": begins, "phrase": phrase}).filter(pc.and_(within, pc.is_valid(phrase))))
    found = pa.concat_tables(hits).group_by("row").aggregate([("phrase", "count_distinct")])
    place = pc.index_in(pa.array(range(len(split)), row.type), value_set=found["row"].combine_chunks())
    return found["phrase_count_distinct"].combine_chunks().take(place).fill_null(0).cast(pa.int32())


def _digest(phrases: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(phrases).encode()).hexdigest()
