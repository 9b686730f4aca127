"""Reads the images of an earlier result as a set: digests, hashes and embeddings from the tables of its shards."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from curate.dedup.against.files import Values, from_column
from curate.duplicates import PartValues, Stored
from curate.errors import BrokenResult, RecipeError, one_line
from curate.remembered import Remembered
from curate.store import Json, Store, access_errors

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ResultTable:
    """The tables of a shard of a result.

    Attributes:
        path: of the table that has ids and digests.
        values: of the table that has the values, row for row; the same where these are hashes.
        column: of the values.
        sha256: of the bytes of both tables, one digest after the other.
        rows: their number.
        width: the number of values in a vector; 0 where values are hashes.
    """

    path: str
    values: str
    column: str
    sha256: str
    rows: int
    width: int

    @property
    def name(self) -> str:
        """The last word of its path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Result:
    """A finished result, as its manifest describes it.

    Attributes:
        store: the run's folder.
        pack: the result's folder in it.
        files: sha256 and rows by name in that folder.
        weights: of each model, by short name and in their order, the digest of its weights; None where the folder that
            states it was deleted.
    """

    store: Store
    pack: str
    files: Mapping[str, Json]
    weights: Mapping[str, str | None]

    @classmethod
    def of(cls, where: str, path: str, endpoint: str | None) -> "Result":
        """Reads the manifest of a result.

        Args:
            where: the key in the recipe, for errors.
            path: the folder of the run, or of its result (`pack-…`).
            endpoint: an S3 server other than AWS.

        Raises:
            RecipeError: there is no manifest, it cannot be read, or the result has no tables.
        """
        folder, _, last = path.rstrip("/").rpartition("/")
        store = Store(folder if last.startswith("pack-") and folder else path.rstrip("/"), endpoint)
        try:
            manifest = store.read_json(MANIFEST)
            pack, files = str(manifest["pack"]), {info["name"]: info for info in manifest["result"]}
            models = list(store.read_json("recipe.json")["models"]) if store.exists("recipe.json") else []
            weights = {name: _weights(store, manifest["folders"].get(f"embed-{name}")) for name in models}
        except FileNotFoundError as error:
            raise RecipeError(
                f"{where}: {store.url} has no {MANIFEST}; name the folder of a finished run, or its pack-… in it"
            ) from error
        except (BrokenResult, KeyError, TypeError) as error:
            raise RecipeError(f"{where}: {store.path(MANIFEST)} is not a manifest: {one_line(error)}") from error
        except access_errors(path) as error:
            raise RecipeError(f"{where}: {store.path(MANIFEST)} cannot be read: {one_line(error)}") from error
        if last.startswith("pack-") and folder and last != pack:
            raise RecipeError(
                f"{where}: {store.path(MANIFEST)} is that of {pack}, not of {last}; name the run's folder"
            )
        if not any(_is_table(name) for name in files):
            raise RecipeError(f"{where}: {store.path(pack)} has no shards/*.parquet, the tables of layout webdataset")
        return cls(store, pack, files, weights)

    def urls(self) -> list[Json]:
        """Returns the tables that have the result's URLs: `path`, `sha256` and `rows` of each."""
        return [
            {"path": self.store.path(f"{self.pack}/{name}"), "sha256": info["sha256"], "rows": int(info["rows"])}
            for name, info in sorted(self.files.items())
            if _is_table(name)
        ]

    def tables(self, where: str, stored: Stored, weights: str | None, remembered: Remembered) -> list[ResultTable]:
        """Returns the tables that have a kind's values, one for each shard.

        Args:
            where: the key in the recipe, for errors.
            stored: how the values are written.
            weights: of embeddings, the digest of the weights of the run's model; None for hashes.
            remembered: what an earlier command found out about a table is taken from it.

        Raises:
            RecipeError: the result has no such values, or they are those of another model.
        """
        column = stored.column if stored.digits else self._column(where, stored, weights)
        found = []
        for name in sorted(name for name in self.files if _is_table(name)):
            of_values = name if stored.digits else name.replace("shards/", "embeddings/", 1)
            digests = [str(self.files[one]["sha256"]) for one in dict.fromkeys((name, of_values))]
            path, values = (self.store.path(f"{self.pack}/{one}") for one in (name, of_values))
            found.append(ResultTable(path, values, column, "".join(digests), int(self.files[name]["rows"]), 0))
        # All shards have the columns of the first.
        first = found[0].values

        def look() -> tuple[int, list[str]]:
            return _width(where, self.store, first, column, stored), [first]

        width = remembered.get("result", {"table": found[0].sha256, "column": column}, look)
        return [ResultTable(**{**vars(table), "width": width}) for table in found]

    def _column(self, where: str, stored: Stored, weights: str | None) -> str:
        """The column of the embeddings by a model with these weights."""
        if not any(self.weights.values()):
            # The passes of that run were deleted: the width is all that can be compared.
            return stored.column
        for number, (model, found) in enumerate(self.weights.items()):
            if found == weights:
                return stored.column if number == 0 else f"{stored.column}_{model}"
        raise RecipeError(
            f"{where}: {self.store.path(self.pack)} has no embeddings by the run's first model, but by others "
            f"({', '.join(self.weights)}); compare by a hash, or embed with one of its models"
        )


def read(where: str, table: ResultTable, stored: Stored, endpoint: str | None = None) -> tuple[PartValues, Values]:
    """Returns the images of a shard whose values can be compared, and the values of all rows.

    Raises:
        RecipeError: a table cannot be read, or is not the one that the manifest describes.
    """
    columns = list(dict.fromkeys(["uid", "sha256", *([table.column] if stored.digits else [])]))
    ids = _table(where, table.path, table.sha256[:64], columns, endpoint)
    values = ids
    if not stored.digits:
        values = _table(where, table.values, table.sha256[64:], ["uid", table.column], endpoint)
        if not values["uid"].equals(ids["uid"]):
            raise RecipeError(f"{where}: {table.values} does not have the rows of {table.path}")
    column = values[table.column].combine_chunks()
    found = from_column(where, table.values, column, 0, table.width, stored)
    rows = pa.array(found.rows)
    images = [bytes.fromhex(uid) for uid in ids["uid"].take(rows).to_pylist()]
    digests = ids["sha256"].take(rows)
    return PartValues(digests, pa.array(images, pa.binary(16)), found.values), found


def _is_table(name: str) -> bool:
    return name.startswith("shards/") and name.endswith(".parquet")


def _weights(store: Store, folder: str | None) -> str | None:
    """The digest of the weights of an embed pass; None where its folder was deleted."""
    name = f"{folder}/pass.json"
    if folder is None or not store.exists(name):
        return None
    return str(store.read_json(name)["params"]["model"]["weights_sha256"])


def _width(where: str, store: Store, path: str, column: str, stored: Stored) -> int:
    """Returns the values of a vector, 0 for hashes. Raises RecipeError where the column is missing."""
    name = path.removeprefix(store.url.rstrip("/") + "/")
    try:
        with store.open(name) as opened:
            schema = pq.read_schema(opened)
    except (*access_errors(path), pa.ArrowException) as error:
        raise RecipeError(f"{where}: {path} cannot be read: {one_line(error)}") from error
    if column not in schema.names:
        raise RecipeError(
            f"{where}: {path} has no column {column!r}; compare by another kind, or make that result again with a "
            "step that reads the column"
        )
    return 0 if stored.digits else int(schema.field(column).type.list_size)


def _table(where: str, path: str, sha256: str, columns: list[str], endpoint: str | None) -> pa.Table:
    folder, _, name = path.rpartition("/")
    try:
        data = Store(folder, endpoint).read(name)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise RecipeError(f"{where}: {path} is not the file that the manifest describes (sha256 differs)")
        return pq.read_table(io.BytesIO(data), columns=columns)
    except (*access_errors(path), pa.ArrowException) as error:
        raise RecipeError(f"{where}: {path} cannot be read: {one_line(error)}") from error
