"""Generates the demo's list: its pictures with URLs and captions, and the ground truth of each row.

Everything depends on (seed, index) alone: nothing is stored, and a row is computed again whenever it is needed.

    corpus = Corpus(seed=0, pairs=2000)
    written = corpus.write(Path("demo"))        # demo/urls/*.parquet and demo/truth.parquet
    with serve(corpus):                         # curate.demo.server
        ...                                     # a run whose `fetch.allow` is corpus.addresses()
"""

import random
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import pyarrow as pa

from curate.demo import captions
from curate.demo.encode import ENCODINGS, sample_encoding
from curate.demo.kinds import COPIES, KINDS, SHARES_URL, KindName, Truth, counts
from curate.demo.scenes import Scene, sample_scene, scene_key
from curate.errors import UsageError
from curate.schema import ID, pair_id
from curate.store import Store, parquet_bytes

SERVED_HOSTS = tuple(f"127.0.0.{n}" for n in range(2, 18))
"""Addresses on which the server listens; each counts as a host in limits per host."""
REFUSED_HOST = "127.0.0.250"
"""An address on which no server listens."""
DEFAULT_PORT = 8123

LIST_SCHEMA = pa.schema(
    [
        ("URL", pa.string()),
        ("TEXT", pa.string()),
        ("WIDTH", pa.int32()),
        ("HEIGHT", pa.int32()),
        ("similarity", pa.float64()),
        ("LICENSE", pa.string()),
    ]
)
"""The columns of LAION's lists. `similarity` is random; TEXT is null in some rows without a caption."""

TRUTH_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("pair_id", ID),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("kind", pa.string()),
        ("truth", pa.string()),
        ("expected_reason", pa.string()),
        ("copy_of", pa.string()),
        ("copy_group", pa.int64()),
    ]
)
"""One row per row of the list, in its order (`row` counts from 0, over all files of the list). `truth` is keep, drop
or may. Exactly one row of a `copy_group` must be kept, and any one is right; of kind `two_captions`, at least one.
`copy_of` is null in the original and the original's URL in the copies. `pair_id` repeats in rows of kind `repeated`."""

_ROWS_PER_FILE = 50_000
_FOLDERS = ("photos", "img", "media/2023", "uploads/2024/05", "wp-content/2022")
_STEMS = ("picture", "photo", "shapes", "image", "drawing")
_DEAD_HOSTS = ("cdn.invalid", "images.invalid", "static.old-shop.invalid")
_JUNK: dict[KindName, captions.JunkKind] = {
    "boilerplate": "boilerplate",
    "file_name": "file_name",
    "url_caption": "url",
    "empty_caption": "empty",
}
# Encodings that keep all of the picture, up to its edges.
_COPY_ENCODINGS = ("jpeg", "jpeg_progressive", "webp")
# Kinds whose pictures may be in the result, where they make a row with an equal scene a duplicate.
_CAN_STAY = frozenset(name for name, kind in KINDS.items() if kind.truth != "drop")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the list.

    Attributes:
        index: Its 0-based position in the list.
        kind: The fault that is planted in it, or `clean`.
        source: Index of the row whose picture this one shows; its own, except for copies and repeats.
        url: The URL in the list.
        caption: The caption in the list.
        size: Width and height of the upright picture, in pixels.
        encoding: A name in `curate.demo.encode.ENCODINGS`.
    """

    index: int
    kind: KindName
    source: int
    url: str
    caption: str
    size: tuple[int, int]
    encoding: str


@dataclass(frozen=True, slots=True)
class Written:
    """The paths of the list and the truth table that `Corpus.write` has written."""

    urls: tuple[Path, ...]
    truth: Path


@dataclass(frozen=True, slots=True)
class _Layout:
    kinds: list[KindName]
    sources: dict[int, int]
    groups: dict[int, int]


@dataclass(frozen=True)
class Corpus:
    """A list of pairs, and the content of the web server that its URLs refer to.

    Args:
        seed: Seed of all random choices.
        pairs: Rows of the list, at least 1. From 300 on every kind occurs.
        port: Port of the web server; part of the URLs, and so of the ids.

    Raises:
        UsageError: fewer than one pair, or a port that does not exist.
    """

    seed: int
    pairs: int
    port: int = DEFAULT_PORT

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise UsageError(f"a demo of {self.pairs} pairs is not possible: choose at least 1")
        if not 0 < self.port < 65536:
            raise UsageError(f"port {self.port}: choose one from 1 to 65535")

    def addresses(self) -> list[str]:
        """Returns the `address:port` entries that `fetch.allow` needs; on the last one no server listens."""
        return [f"{host}:{self.port}" for host in (*SERVED_HOSTS, REFUSED_HOST)]

    def rng(self, purpose: str, index: int) -> random.Random:
        """Returns the random generator for one purpose of one row, the same in every process."""
        return _rng(self.seed, purpose, index)

    def scene(self, row: Row) -> Scene:
        """Returns the scene of the row's picture; for kinds whose picture shows none, the scene that it replaces."""
        return _scene(self.seed, row.source)

    def text(self, index: int) -> str:
        """Returns the words on the picture of a row of kind `only_text`."""
        return captions.sample_text(self.rng("text", index))

    def row(self, index: int) -> Row:
        """Returns the row at a position of the list, 0 to `pairs` - 1."""
        kind = self._layout.kinds[index]
        source = self._layout.sources.get(index, index)
        scene = _scene(self.seed, source)
        size, encoding = self._look(source, scene)
        if kind in COPIES and kind != "exact_copy":
            rng = self.rng("copy", index)
            encoding = "jpeg" if kind == "near_reencoded" else rng.choice(_COPY_ENCODINGS)
            size = _copied_size(kind, size, rng)
        url = self._url(source if kind in SHARES_URL else index, encoding)
        caption = self._caption(source if kind == "repeated" else index, scene)
        return Row(index, kind, source, url, caption, size, encoding)

    def rows(self) -> Iterator[Row]:
        """Yields all rows in the order of the list."""
        return map(self.row, range(self.pairs))

    def write(self, folder: Path) -> Written:
        """Writes the list (`urls/*.parquet`) and `truth.parquet`; 100,000 pairs take about half a minute.

        A file whose content would not change is not written, so that its size and time identify its content. List files
        of an earlier call with more pairs are removed.
        """
        listed, truth = self.tables()
        parts = {
            f"urls/{at // _ROWS_PER_FILE:05d}.parquet": listed.slice(at, _ROWS_PER_FILE)
            for at in range(0, self.pairs, _ROWS_PER_FILE)
        }
        store = Store(str(folder))
        for name, table in {**parts, "truth.parquet": truth}.items():
            data = parquet_bytes(table)
            if not store.exists(name) or store.read(name) != data:
                store.put(name, data)
        for name in store.names("urls"):
            if f"urls/{name}" not in parts and name.endswith(".parquet"):
                store.delete(f"urls/{name}")
        return Written(tuple(folder / name for name in parts), folder / "truth.parquet")

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Returns the list (`LIST_SCHEMA`) and the truth table (`TRUTH_SCHEMA`)."""
        rows: list[Row] = []
        keys: dict[int, Hashable] = {}
        for row in self.rows():
            rows.append(row)
            if row.kind in _CAN_STAY:
                keys[row.source] = scene_key(self.scene(row))
        listed = pa.Table.from_pylist([self._listed(row) for row in rows], LIST_SCHEMA)
        shown = Counter(keys.values())
        alike = {source for source, key in keys.items() if shown[key] > 1}
        truth = pa.Table.from_pylist([self._truth(row, rows, alike) for row in rows], TRUTH_SCHEMA)
        return listed, truth

    def _listed(self, row: Row) -> dict[str, str | int | float | None]:
        rng = self.rng("listed", row.index)
        return {
            "URL": row.url,
            "TEXT": None if not row.caption and rng.random() < 0.5 else row.caption,
            "WIDTH": row.size[0],
            "HEIGHT": row.size[1],
            "similarity": round(rng.uniform(0.28, 0.42), 6),
            "LICENSE": rng.choice(("?", "?", "?", "CC-BY", None)),
        }

    def _truth(self, row: Row, rows: list[Row], alike: set[int]) -> dict[str, str | int | bytes | None]:
        kind = KINDS[row.kind]
        truth: Truth = kind.truth
        group = self._layout.groups.get(row.index)
        if row.source in alike:
            # Another row has an equal scene: it, or the whole group of copies, may be dropped as its duplicate.
            truth, group = ("drop" if truth == "drop" else "may"), None
        elif group is not None:
            truth = "may"
        return {
            "row": row.index,
            "pair_id": pair_id(row.url, row.caption),
            "url": row.url,
            "caption": row.caption,
            "kind": row.kind,
            "truth": truth,
            "expected_reason": kind.expected,
            "copy_of": rows[row.source].url if row.source != row.index else None,
            "copy_group": group,
        }

    @cached_property
    def _layout(self) -> _Layout:
        rng = self.rng("layout", self.pairs)
        kinds = [kind for kind, count in counts(self.pairs).items() for _ in range(count)]
        rng.shuffle(kinds)
        originals = [index for index, kind in enumerate(kinds) if kind == "clean"]
        rng.shuffle(originals)
        sources: dict[int, int] = {}
        groups: dict[int, int] = {}
        last_copied: int | None = None
        for index, kind in enumerate(kinds.copy()):
            if kind in COPIES and last_copied is not None and rng.random() < 0.2:
                original = last_copied
            elif kind in COPIES or kind in SHARES_URL:
                original = originals.pop()
            else:
                continue
            sources[index] = original
            if kind in COPIES:
                last_copied = original
            if kind == "two_captions":
                kinds[original] = kind
            if kind != "repeated":
                groups[original] = groups[index] = original
        return _Layout(kinds, sources, groups)

    def _look(self, source: int, scene: Scene) -> tuple[tuple[int, int], str]:
        """Returns size and encoding of a picture that is not a copy."""
        kind = self._layout.kinds[source]
        rng = self.rng("look", source)
        if kind == "bomb":
            return (640, 480), "png_palette"
        if kind == "tiny":
            return (rng.randint(8, 40), rng.randint(8, 40)), sample_encoding(rng, grey=scene.grey)
        size = _sample_size(rng)
        if max(size) > 800:
            # Encoding a large PNG would take longer than everything else that is done with the picture.
            return size, "jpeg"
        return size, sample_encoding(rng, grey=scene.grey)

    def _url(self, index: int, encoding: str) -> str:
        rng = self.rng("url", index)
        kind = self._layout.kinds[index]
        host = rng.choice(SERVED_HOSTS)
        if kind == "refused":
            host = REFUSED_HOST
        elif kind == "unknown_host":
            # Few different names, as a resolver may take seconds to answer that a name does not exist.
            host = rng.choice(_DEAD_HOSTS)
        path = f"{rng.choice(_FOLDERS)}/{rng.choice(_STEMS)}-{index}{ENCODINGS[encoding].extension}"
        return f"http://{host}:{self.port}/{path}"

    def _caption(self, index: int, scene: Scene) -> str:
        kind = self._layout.kinds[index]
        rng = self.rng("caption", index)
        if kind in _JUNK:
            return captions.junk_caption(_JUNK[kind], rng)
        if kind == "wrong_caption":
            return captions.wrong_caption(scene, rng)
        if kind == "half_wrong_caption":
            return captions.half_wrong_caption(scene, rng)
        if kind == "only_text":
            # The caption is the text, a description of it, or a caption of the scene that it replaces.
            text = self.text(index)
            return rng.choice((text, captions.text_caption(text, rng), captions.caption(scene, rng)))
        return captions.caption(scene, rng)


def _rng(seed: int, purpose: str, index: int) -> random.Random:
    return random.Random(f"{seed}/{purpose}/{index}")


# Cached, as a row and its picture are computed from the same scene shortly after each other.
@lru_cache(maxsize=64)
def _scene(seed: int, source: int) -> Scene:
    return sample_scene(_rng(seed, "scene", source))


def _sample_size(rng: random.Random) -> tuple[int, int]:
    """Returns width and height, 68 to 2,000 pixels: mostly small, so that drawing and decoding them is fast."""
    # At least 68, so that a copy cropped by 5 % still has 64.
    low, high = rng.choices(((91, 320), (320, 640), (640, 1200), (1200, 2000)), (86, 11, 2.4, 0.6))[0]
    long = low * (high / low) ** rng.random()
    short = long * rng.uniform(0.75, 1.0)
    size = (round(long), max(68, round(short)))
    return size if rng.random() < 0.6 else (size[1], size[0])


def _copied_size(kind: KindName, size: tuple[int, int], rng: random.Random) -> tuple[int, int]:
    width, height = size
    if kind == "near_cropped":
        return round(width * 0.95), round(height * 0.95)
    if kind == "near_resized":
        # At least 64 pixels, as a smaller picture counts as a thumbnail.
        factor = rng.uniform(0.5, 0.8) if min(size) >= 128 else rng.uniform(1.3, 1.8)
        return round(width * factor), round(height * factor)
    return size
