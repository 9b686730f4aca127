"""The kept rows of a part, joined from the tables of every pass: what a shard's Parquet files hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import BrokenResult
from curate.schema import FETCHED, MIRRORED, PIXELS, SIMILARITY
from curate.store import Folder, Inputs

_SIZES = ("width", "height", "original_width", "original_height")
_PIXELS = tuple(name for name in PIXELS.names if name not in ("image_id", "decoded"))


@dataclass(frozen=True)
class Settings:
    """What the pass is told.

    Args:
        shard_size: samples in every shard but the last.
        models: the models' short names, the first one first: its columns also go without a suffix.
        signals: the columns to take of each signals folder, by the folder's short name.
    """

    shard_size: int
    models: Sequence[str]
    signals: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class PartRows:
    """The same kept pairs, row for row, in the tables they were found in.

    Args:
        plan: the rows of plan.
        images: of `images.parquet`: status, sizes, sha256 and file.
        pixels: the pixel columns.
        vectors: by model, image_embedding, text_embedding, clip_similarity and, where there is one,
            clip_similarity_mirrored.
        signals: by folder, its columns.
    """

    plan: pa.Table
    images: pa.Table
    pixels: pa.Table
    vectors: Mapping[str, pa.Table]
    signals: Mapping[str, pa.Table]


def read(inputs: Inputs, settings: Settings, part: int, start: int, stop: int) -> PartRows:
    """Reads the kept rows of a part, numbers `start` to `stop` of them.

    Raises:
        BrokenResult: tables of the part do not stand in one order, or a kept pair has no image or embedding.
    """
    plan = inputs["plan"].table("pairs.parquet", part)
    decisions = inputs["select"].table("decisions.parquet", part, ["pair_id", "kept"])
    _check_same(plan["pair_id"], decisions["pair_id"], inputs["select"], part)
    pairs = plan.append_column("kept", decisions["kept"]).filter(pc.invert(plan["repeated"]))
    if pc.any(decisions["kept"].filter(plan["repeated"])).as_py():
        raise BrokenResult(f"{inputs['select'].path}: part {part} keeps a repeated row")
    kept = pc.indices_nonzero(pairs["kept"]).slice(start, stop - start)
    if len(kept) != stop - start:
        raise BrokenResult(f"{inputs['select'].path}: part {part} keeps fewer pairs than parts.parquet says")

    def by_pair(folder: Folder, columns: Sequence[str]) -> pa.Table:
        table = folder.table("pairs.parquet", part, ["pair_id", *columns])
        _check_same(pairs["pair_id"], table["pair_id"], folder, part)
        return table.select(list(columns)).take(kept)

    fetched = inputs["fetch"].table("images.parquet", part, ["image_id", "status", *_SIZES, "sha256", "file"])
    chosen = pairs.take(kept)
    image = pc.index_in(chosen["image_id"], value_set=fetched["image_id"])
    if image.null_count:
        raise BrokenResult(f"{inputs['fetch'].path}: part {part} lacks the image of a kept pair")

    def by_image(folder: Folder, role: str, columns: Sequence[str]) -> pa.Table:
        table = folder.table(role, part, ["image_id", *columns])
        _check_same(fetched["image_id"], table["image_id"], folder, part)
        return table.select(list(columns)).take(image)

    vectors = {}
    for model in settings.models:
        folder = inputs[f"embed-{model}"]
        table = by_pair(folder, [name for name in folder.columns("pairs.parquet", part) if name != "pair_id"])
        of_image = by_image(folder, "images.parquet", ["image_embedding"])["image_embedding"]
        vectors[model] = table.append_column("image_embedding", of_image)
        if of_image.null_count or table["text_embedding"].null_count:
            raise BrokenResult(f"{folder.path}: part {part} has no embedding for a kept pair")
    return PartRows(
        chosen.drop_columns(["kept"]),
        fetched.take(image),
        by_image(inputs["pixels"], "pixels.parquet", _PIXELS),
        vectors,
        {name: by_pair(inputs[name], names) for name, names in settings.signals.items()},
    )


def columns(rows: PartRows, settings: Settings) -> pa.Table:
    """The rows of a shard's table: img2dataset's columns, then the scores, signals and source columns."""
    uid = hexadecimal(rows.plan["pair_id"])
    found: dict[str, pa.Array | pa.ChunkedArray] = {
        "key": uid,
        "uid": uid,
        "url": rows.plan["url"],
        "caption": rows.plan["caption"],
        "status": pa.array([FETCHED] * len(uid), pa.string()),
        "error_message": pa.nulls(len(uid), pa.string()),
        **{name: rows.images[name] for name in (*_SIZES, "sha256")},
        **_similarities(rows, settings.models, SIMILARITY),
        **_similarities(rows, settings.models, MIRRORED),
    }
    others = [*rows.signals.values(), rows.pixels]
    others.append(rows.plan.select([name for name in rows.plan.column_names if name.startswith("source_")]))
    for table in others:
        for name in table.column_names:
            if name in found:
                raise BrokenResult(f"two columns of the result are named {name!r}")
            found[name] = table[name]
    return pa.table(found)


def _similarities(rows: PartRows, models: Sequence[str], column: str) -> dict[str, pa.ChunkedArray]:
    """A column of each model that has it, the first model's also without its suffix."""
    found: dict[str, pa.ChunkedArray] = {}
    for number, model in enumerate(models):
        if column in rows.vectors[model].column_names:
            values = rows.vectors[model][column]
            found |= {f"{column}_{model}": values} if number else {column: values, f"{column}_{model}": values}
    return found


def embeddings(rows: PartRows, settings: Settings) -> pa.Table:
    """The rows of a shard's embedding table: uid and, by model, image_embedding and text_embedding.

    The first model's columns go without a suffix, the others' end in `_<model>`.
    """
    found = {"uid": hexadecimal(rows.plan["pair_id"])}
    for number, model in enumerate(settings.models):
        suffix = f"_{model}" if number else ""
        for name in ("image_embedding", "text_embedding"):
            found[name + suffix] = rows.vectors[model][name]
    return pa.table(found)


def image_files(rows: PartRows) -> list[str]:
    """The member of the part's tar that holds each row's image.

    Raises:
        BrokenResult: a kept pair's image was not fetched.
    """
    files: list[str | None] = rows.images["file"].to_pylist()
    statuses = rows.images["status"].to_pylist()
    named = [name for name, status in zip(files, statuses, strict=True) if name and status == FETCHED]
    if len(named) != len(files):
        raise BrokenResult("a kept pair's image was not fetched")
    return named


def hexadecimal(ids: pa.ChunkedArray) -> pa.Array:
    """binary(16) as 32 lower-case hex digits."""
    return pa.array([value.hex() for value in ids.to_pylist()], pa.string())


def _check_same(expected: pa.ChunkedArray, found: pa.ChunkedArray, folder: Folder, part: int) -> None:
    if not expected.equals(found):
        raise BrokenResult(f"{folder.path}: part {part} does not list what the passes before it list")
