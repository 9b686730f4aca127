"""WebDataset shards with tables of the same rows, for img2dataset, webdataset, open_clip and DataComp's tools."""

import io
import itertools
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import counted
from curate.pack.layouts.contract import (
    CheckedFiles,
    Description,
    LayoutFiles,
    Packed,
    ResultLayout,
    ShardWriter,
    StoredImage,
    differences,
)
from curate.pack.plain import plain_values

_SIZES = "shards/sizes.json"

_FIRST = (
    "uid",
    "key",
    "url",
    "caption",
    "width",
    "height",
    "original_width",
    "original_height",
    "sha256",
)

_SAMPLES = ({"jpg", "json"}, {"png", "json"}, {"webp", "json"})
"""The members of a sample besides its caption's."""


class WebDataset(ResultLayout):
    """Writes for each shard a tar of samples, a table of the same rows, a table of their embeddings, and counts."""

    name = "webdataset"
    takes_images = True

    def open_shard(self, shard: int, scratch: Path) -> ShardWriter:
        """See `ResultLayout`."""
        return _TarWriter(shard, scratch / "samples.tar")

    def write_whole(self, packed: Packed, files: LayoutFiles) -> None:
        """See `ResultLayout`; open_clip reads the samples of each tar from `sizes.json`."""
        files.put_json(_SIZES, _sizes(packed))

    def describe(self, packed: Packed) -> Description:
        """See `ResultLayout`."""
        embeddings = ", ".join(f"`{name}`" for name in ("uid", *packed.embeddings))
        caption = "its caption (`txt`) and " if packed.has_captions else "and "
        files = [
            "Row i of a shard's tables and sample i of its tar are the same pair, named by `key` (32 hex digits).",
            "",
            (f"- `shards/{{:08d}}.tar`: per sample an image (`jpg`, `png` or `webp`), {caption}its metadata (`json`)."),
            "- `shards/{:08d}.parquet`: the same rows, with every score and signal.",
            f"- `embeddings/{{:08d}}.parquet`: {embeddings}; float16, of length 1.",
            "- `shards/sizes.json`: samples of each tar.",
            "- `shards/{:08d}_stats.json`: counts, as img2dataset writes them.",
        ]
        holds, reading = counted(len(packed.sizes), "WebDataset shard"), _reading(packed)
        return Description(holds, files, reading, data_files="shards/*.tar")

    def check_shard(self, shard: int, expected: Sequence[str] | None, packed: Packed, files: CheckedFiles) -> None:
        """See `ResultLayout`; where the decisions are unknown, the other files are compared with the shard's table."""
        tar_name, table_name, embeddings_name, stats_name = _names(shard)
        captions: list[str | None] | None = None
        with files.file(table_name) as path:
            if path:
                table = pq.read_table(path, columns=["key", "uid", *(["caption"] if packed.has_captions else [])])
                keys = table["key"].to_pylist()
                captions = table["caption"].to_pylist() if packed.has_captions else [None] * len(keys)
                expected = keys if expected is None else expected
                for fault in differences(keys, expected):
                    files.fault(table_name, fault)
                if not table["key"].equals(table["uid"]):
                    files.fault(table_name, "key and uid differ")
        with files.file(embeddings_name) as path:
            if path and expected is not None:
                uids = pq.read_table(path, columns=["uid"])["uid"].to_pylist()
                for fault in differences(uids, expected):
                    files.fault(embeddings_name, fault)
        with files.file(tar_name) as path:
            if path and expected is not None:
                for fault in _tar_faults(path, expected, captions):
                    files.fault(tar_name, fault)
        with files.file(stats_name) as path:
            if path and expected is not None:
                stats = json.loads(path.read_bytes())
                if not stats.get("count") == stats.get("successes") == len(expected):
                    files.fault(stats_name, f"does not count {counted(len(expected), 'sample')}")

    def check_whole(self, packed: Packed, files: CheckedFiles) -> None:
        """See `ResultLayout`."""
        with files.file(_SIZES) as path:
            if path and json.loads(path.read_bytes()) != _sizes(packed):
                files.fault(_SIZES, "does not give the shards' samples")


class _TarWriter(ShardWriter):
    """Writes a shard: first its tar, as images arrive, then the other files.

    The members of a sample are its image, json and txt, sorted by extension. Without captions there is no txt, as in
    img2dataset's samples; open_clip skips such samples.

    The members are plain USTAR with time 0, owner 0 and mode 644 (tarfile's own defaults), so that every tar reader
    can read them and equal samples give equal bytes.
    """

    def __init__(self, shard: int, path: Path) -> None:
        self._names = _names(shard)
        self._path = path
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  (closed by `close`)

    def add(self, rows: pa.Table, images: Sequence[StoredImage]) -> None:
        for content, image in zip(_contents(rows), images, strict=True):
            members = {
                image.extension: image.data,
                "json": json.dumps(content, ensure_ascii=False, allow_nan=False).encode(),
            }
            if "caption" in content:
                members["txt"] = content["caption"].encode()
            for extension, data in sorted(members.items()):
                member = tarfile.TarInfo(f"{content['key']}.{extension}")
                member.size = len(data)
                self._tar.addfile(member, io.BytesIO(data))

    def finish(self, table: pa.Table, embeddings: pa.Table, files: LayoutFiles) -> None:
        self._tar.close()
        tar_name, table_name, embeddings_name, stats_name = self._names
        files.put_file(tar_name, self._path, rows=len(table))
        files.put_table(table_name, table)
        files.put_json(stats_name, _stats(len(table)))
        files.put_table(embeddings_name, embeddings)

    def close(self) -> None:
        self._tar.close()


def _names(shard: int) -> tuple[str, str, str, str]:
    """The names of a shard's tar, table, embeddings and counts."""
    return (
        f"shards/{shard:08d}.tar",
        f"shards/{shard:08d}.parquet",
        f"embeddings/{shard:08d}.parquet",
        f"shards/{shard:08d}_stats.json",
    )


def _sizes(packed: Packed) -> dict[str, int]:
    return {f"{shard:08d}.tar": size for shard, size in enumerate(packed.sizes)}


def _stats(samples: int) -> dict[str, Any]:
    """The counts of img2dataset's stats file, without its times."""
    return {
        "count": samples,
        "successes": samples,
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "status_dict": {"success": samples},
    }


def _contents(rows: pa.Table) -> list[dict[str, Any]]:
    """The content of each row's json, with a fixed order of keys."""
    scores = [name for name in rows.column_names if name.startswith("clip_similarity")]
    source = [name for name in rows.column_names if name.startswith("source_")]
    names = [*(name for name in _FIRST if name in rows.column_names), *scores, "status", *source]
    values = [plain_values(rows[name]) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def _reading(packed: Packed) -> list[str]:
    last = f"{max(len(packed.sizes) - 1, 0):08d}"
    braces = f"shards/{{00000000..{last}}}.tar"
    names, members = ("image, caption", '"txt"') if packed.has_captions else ("image, facts", '"json"')
    training = [
        "",
        "```sh",
        "python -m open_clip_train.main --dataset-type webdataset \\",
        f"    --train-data '{braces}' --model ViT-B-32",
        "```",
    ]
    return [
        "```python",
        "from datasets import load_dataset",
        "",
        'pairs = load_dataset(".", split="train", streaming=True)',
        "```",
        "",
        "```python",
        "import webdataset as wds",
        "",
        f'pairs = wds.WebDataset("{braces}", shardshuffle=False)',
        f'for {names} in pairs.decode("pil").to_tuple("jpg;png;webp", {members}):',
        "    ...",
        "```",
        "",
        "```python",
        "import pyarrow.parquet as pq",
        "",
        'rows = pq.read_table("shards/00000000.parquet")',
        'table = pq.read_table("embeddings/00000000.parquet")',
        'column = table["image_embedding"].combine_chunks()',
        "images = column.flatten().to_numpy().reshape(len(table), -1)",
        "```",
        *(training if packed.has_captions else []),
    ]


def _tar_faults(path: Path, expected: Sequence[str], captions: Sequence[str | None] | None) -> Iterator[str]:
    """Yields the faults of a shard's samples: their order, their members, the content of their json and txt.

    Args:
        path: the tar.
        expected: the `key` of each sample.
        captions: those of the shard's table, None for a pair without; None where the table cannot be read.
    """
    keys: list[str] = []
    with tarfile.open(path, "r:") as tar:
        for key, group in itertools.groupby(tar, lambda member: member.name.partition(".")[0]):
            members = list(group)
            extensions = [member.name.partition(".")[2] for member in members]
            row = len(keys)
            keys.append(key)
            if {*extensions} - {"txt"} not in _SAMPLES or extensions != sorted(set(extensions)):
                yield f"sample {row} ({key}) has the members {', '.join(extensions)}"
                continue
            content = {
                extension: tar.extractfile(member)
                for extension, member in zip(extensions, members, strict=True)
                if extension in ("json", "txt")
            }
            texts = {extension: opened.read() for extension, opened in content.items() if opened}
            sample = json.loads(texts["json"])
            if (sample["key"], sample["uid"]) != (key, key):
                yield f"sample {row} ({key}): its json names another pair"
            described = sample.get("caption")
            caption = captions[row] if captions is not None and row < len(captions) else described
            text = texts["txt"].decode() if "txt" in texts else None
            if text != caption or described != caption:
                yield f"sample {row} ({key}): its caption is not that of the table"
    yield from differences(keys, expected)


LAYOUT = WebDataset()
