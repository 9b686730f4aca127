"""clip-retrieval's embedding folder: embeddings as .npy files, and Parquet files with the metadata of the same rows."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import BrokenResult, counted
from curate.pack.layouts.contract import (
    CheckedFiles,
    Description,
    LayoutFiles,
    Packed,
    ResultLayout,
    ShardWriter,
    differences,
)
from curate.schema import SIMILARITY

_IMAGE, _TEXT = "image_embedding", "text_embedding"

_FLOAT16 = np.dtype("<f2")

_LENGTH_ERROR = 0.01
"""The largest difference of an embedding's length from 1; rounding to float16 changes it by 0.0005 at most."""

_COSINE_ERROR = 0.005
"""The largest difference of the cosine of two stored embeddings from `clip_similarity`, which is computed before the
embeddings are rounded to float16; rounding changes the cosine by 0.001 at most."""


class ClipRetrieval(ResultLayout):
    """Writes for each model a folder for `clip-retrieval index` and `embedding_reader`; a shard is a partition of it.

    Both tools pair the sorted .npy files of a folder with the sorted Parquet files of `metadata/`, row for row. Some
    releases of embedding_reader search `img_emb**`, so every further model has its own folder instead of an
    `img_emb_<model>` in the first model's folder.
    """

    name = "clip_retrieval"

    def open_shard(self, shard: int, scratch: Path) -> ShardWriter:
        """See `ResultLayout`."""
        del scratch
        return _PartitionWriter(shard)

    def describe(self, packed: Packed) -> Description:
        """See `ResultLayout`."""
        files = ["Row i of a partition's files is the same pair; each folder is one of clip-retrieval's.", ""]
        for suffix in _suffixes(packed.embeddings):
            image, text, metadata = (f"`{name}`" for name in _names("{:08d}", suffix))
            embeddings, caption = f"{image}: `{_IMAGE}{suffix}`", ""
            if packed.has_captions:
                caption = " `caption`,"
            if _has_text(packed, suffix):
                embeddings = f"{image}, {text}: `{_IMAGE}{suffix}` and `{_TEXT}{suffix}`"
            files += [
                f"- {embeddings}; float16, of length 1.",
                f"- {metadata}: `image_path` (the pair's `key`),{caption} `url`, every score and signal.",
            ]
        return Description(counted(len(packed.sizes), "clip-retrieval partition"), files, _reading())

    def check_shard(self, shard: int, expected: Sequence[str] | None, packed: Packed, files: CheckedFiles) -> None:
        """See `ResultLayout`; the cosine of a pair's embeddings is compared with the pair's `clip_similarity`.

        Where the decisions are unknown, the other files are compared with the partition's metadata.
        """
        for suffix in _suffixes(packed.embeddings):
            image_name, text_name, metadata_name = _names(f"{shard:08d}", suffix)
            keys, similarity = expected, None
            with files.file(metadata_name) as path:
                if path:
                    scores = [SIMILARITY + suffix] if _has_text(packed, suffix) else []
                    table = pq.read_table(path, columns=["image_path", *scores])
                    found = table["image_path"].to_pylist()
                    keys = found if expected is None else expected
                    similarity = table[SIMILARITY + suffix].to_numpy() if scores else None
                    for fault in differences(found, keys):
                        files.fault(metadata_name, fault)
            images = _checked(image_name, keys, files)
            texts = _checked(text_name, keys, files) if _has_text(packed, suffix) else None
            if images is None or texts is None or similarity is None or len(similarity) != len(images):
                continue
            if images.shape != texts.shape:
                files.fault(text_name, f"has rows of {texts.shape[1]} numbers, those of {image_name} {images.shape[1]}")
                continue
            cosines = np.einsum("ij,ij->i", images, texts)
            if len(wrong := np.flatnonzero(~(np.abs(cosines - similarity) <= _COSINE_ERROR))):
                files.fault(
                    metadata_name,
                    f"row {wrong[0]}: {SIMILARITY}{suffix} is {similarity[wrong[0]]:.4f}, "
                    f"but the cosine of its embeddings {cosines[wrong[0]]:.4f}",
                )


class _PartitionWriter(ShardWriter):
    """Writes a shard's embeddings and metadata, for each model in the folder of that model."""

    def __init__(self, shard: int) -> None:
        self._number = f"{shard:08d}"

    def finish(self, table: pa.Table, embeddings: pa.Table, files: LayoutFiles) -> None:
        metadata = _metadata(table)
        for suffix in _suffixes(embeddings.column_names):
            image_name, text_name, metadata_name = _names(self._number, suffix)
            columns = [(image_name, _IMAGE), (text_name, _TEXT)]
            for name, column in columns if _TEXT + suffix in embeddings.column_names else columns[:1]:
                files.put(name, _npy(embeddings[column + suffix]), rows=len(embeddings))
            files.put_table(metadata_name, metadata)


def _suffixes(columns: Sequence[str]) -> list[str]:
    """The suffix of each model's columns and folder; that of the first model is empty."""
    return [name.removeprefix(_IMAGE) for name in columns if name.startswith(_IMAGE)]


def _has_text(packed: Packed, suffix: str) -> bool:
    """Whether a model has text embeddings; some models embed images alone."""
    return _TEXT + suffix in packed.embeddings


def _names(number: str, suffix: str) -> tuple[str, str, str]:
    """The names of a partition's image embeddings, text embeddings and metadata."""
    folder = f"clip_retrieval{suffix}"
    return (
        f"{folder}/img_emb/img_emb_{number}.npy",
        f"{folder}/text_emb/text_emb_{number}.npy",
        f"{folder}/metadata/metadata_{number}.parquet",
    )


def _metadata(table: pa.Table) -> pa.Table:
    """Returns the rows of a shard's table with clip-retrieval's names: an image's path is the key of its sample."""
    if "image_path" in table.column_names:
        raise BrokenResult("two columns of clip-retrieval's metadata are named 'image_path'")
    others = [name for name in table.column_names if name != "caption"]
    first = {name: table[name] for name in ("caption",) if name in table.column_names}
    return pa.table({"image_path": table["key"], **first, **{name: table[name] for name in others}})


def _npy(column: pa.ChunkedArray) -> bytes:
    """Returns a column of fixed-size lists as the bytes of an .npy file: a float16 matrix [pairs, dim]."""
    flat = column.combine_chunks().flatten().to_numpy()
    sink = io.BytesIO()
    np.lib.format.write_array(
        sink, np.ascontiguousarray(flat.reshape(len(column), -1), _FLOAT16), version=(1, 0), allow_pickle=False
    )
    return sink.getvalue()


def _checked(name: str, keys: Sequence[str] | None, files: CheckedFiles) -> npt.NDArray[Any] | None:
    """Returns a file's embeddings as float32; reports a fault and returns None where they are not valid.

    Valid are float16 rows of length 1, one for each pair.
    """
    with files.file(name) as path:
        if not path:
            return None
        stored = np.load(path, allow_pickle=False)
        if stored.dtype != _FLOAT16 or stored.ndim != 2 or not stored.flags.c_contiguous:
            files.fault(name, f"holds {stored.dtype} of shape {stored.shape}, not rows of float16")
        elif keys is not None and len(stored) != len(keys):
            files.fault(name, f"holds {counted(len(stored), 'row')}, not {len(keys)}")
        else:
            embeddings: npt.NDArray[Any] = stored.astype(np.float32)
            lengths = np.linalg.norm(embeddings, axis=1)
            if not len(wrong := np.flatnonzero(~(np.abs(lengths - 1) <= _LENGTH_ERROR))):
                return embeddings
            files.fault(name, f"row {wrong[0]} has the length {lengths[wrong[0]]:.4f}, not 1")
    return None


def _reading() -> list[str]:
    image, _, metadata = _names(f"{0:08d}", "")
    return [
        "```python",
        "import numpy as np",
        "import pyarrow.parquet as pq",
        "",
        f'embeddings = np.load("{image}")',
        f'metadata = pq.read_table("{metadata}")',
        "```",
        "",
        "```sh",
        "clip-retrieval index --embeddings_folder clip_retrieval --index_folder index",
        "```",
    ]


LAYOUT = ClipRetrieval()
