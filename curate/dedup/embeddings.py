"""Embeddings by a model as values of a search: near where their cosine is high (`curate.dedup.search`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from curate.account import Account
from curate.dedup.cosine import cosine, cosines, reach
from curate.duplicates import NearKind, PartValues, Search
from curate.errors import nearest, short
from curate.store import Json

if TYPE_CHECKING:
    import torch

Floor = Annotated[float, Field(gt=0, lt=1)]
Above = Annotated[float, Field(gt=0, le=1)]


class EmbeddingKind(NearKind):
    """All pairs of embeddings by a model.

    A step's keys are `above` and `model`.

    Attributes:
        floor: the key of the section `dedup` with the floor of the search; with an s, that of the floors by model.
    """

    floor: ClassVar[str]
    # At 512 values 280 MB, and as much for each of two short vectors.
    block_rows = 1 << 18
    measure = "cosine"
    left_out = "no embedding of unit length"
    wants_gpu = True

    def words(self, keys: Any) -> str:
        """See `DuplicateKind`."""
        by = f" by {self.model}" if self.model else ""
        return f"cosine ≥ {short(keys.above)}{by}"

    def threshold(self, keys: Any) -> float:
        """See `NearKind`."""
        return float(keys.above)

    def not_searched(self, keys: Any, dedup: Any) -> str:
        """See `NearKind`."""
        floor = self._floor(dedup)
        if keys.above >= floor:
            return ""
        shared = f"dedup.{self.floor}"
        if self.model is None:
            return f"above {keys.above} is below {shared} {floor}; lower {shared} to {keys.above}"
        own = f"{shared}s.{self.model}"
        named = own if self.model in self._floors(dedup) else shared
        return (
            f"above {keys.above} is below {named} {floor}; {'lower' if named == own else 'set'} {own} to {keys.above}"
        )

    def check_section(self, dedup: Any, models: Sequence[str]) -> None:
        """See `NearKind`."""
        for name in self._floors(dedup):
            where = f"dedup.{self.floor}s.{name}"
            if name == models[0]:
                raise ValueError(f"{where}: {name} is the first model, whose floor is dedup.{self.floor}")
            if name not in models:
                raise ValueError(f"{where}: there is no model {name!r}{nearest(name, models)}")

    def depends(self, dedup: Any) -> Json:
        """See `NearKind`."""
        return {"floor": self._floor(dedup)}

    def settings(self, recipe: Any) -> Json:
        """See `NearKind`."""
        model = self.model or next(iter(recipe.models))
        return {
            "floor": self._floor(recipe.dedup),
            "tile": recipe.dedup.tile,
            "model": model,
            "device": recipe.device("dedup"),
            "threads": recipe.models[model].threads,
        }

    def similarities(self, left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See `NearKind`."""
        return cosines(left, right)

    def reach(self, left: npt.NDArray[Any], right: npt.NDArray[Any], least: float) -> npt.NDArray[np.bool_]:
        """See `NearKind`."""
        return reach(left, right, least)

    def each_similarity(self, left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See `NearKind`."""
        every = np.arange(len(left))
        return cosine(left, right, every, every)

    def open(self, settings: Json) -> Search:
        """See `NearKind`."""
        # Imported here, as a process that only reads a recipe does not need torch.
        import torch

        from curate.device import choose_device, without_tf32

        device = choose_device(settings["device"])
        torch.set_num_threads(settings["threads"])
        # The margin of the search is computed for float32; TF32 would need a margin a thousand times as wide.
        without_tf32()
        return _Search(settings["floor"], settings["tile"], settings["threads"], device)

    def _floor(self, dedup: Any) -> float:
        return float(self._floors(dedup).get(self.model or "", getattr(dedup, self.floor)))

    def _floors(self, dedup: Any) -> dict[str, float]:
        floors: dict[str, float] = getattr(dedup, f"{self.floor}s")
        return floors


@dataclass(frozen=True)
class _Search:
    floor: float
    tile: int
    threads: int
    device: "torch.device"

    def near(
        self, left: npt.NDArray[Any], right: npt.NDArray[Any] | None, scratch: Path, account: Account
    ) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]:
        """See `Search`."""
        from curate.dedup.search import near_pairs
        from curate.device import gpu_failures

        with gpu_failures(self.device):
            yield from near_pairs(
                left, right, self.floor, self.tile, self.device, scratch, account, threads=self.threads
            )

    def near_counts(self, values: npt.NDArray[Any], sample: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """See `Search`."""
        from curate.dedup.search import near_counts

        return near_counts(values, sample, self.floor)


def usable(
    digests: pa.ChunkedArray | pa.Array, ids: pa.ChunkedArray, embeddings: pa.ChunkedArray, present: pa.ChunkedArray
) -> PartValues:
    """Returns the embeddings of a part that can be compared.

    Args:
        digests: of what they are embeddings of.
        ids: of the images or pairs.
        embeddings: float16 [dim] each.
        present: whether there is an embedding, and what it is of; the others are left out without being counted.
    """
    dim = embeddings.type.list_size
    values: npt.NDArray[np.float16] = (
        embeddings.filter(present).combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    )
    # Cosines in float64 are exact for values up to 1 (`curate.dedup.search`); NaN is not up to 1.
    fits = np.logical_and((np.abs(values) <= 1).all(axis=1), values.any(axis=1))
    mask = pa.array(fits)
    digests, ids = (column.filter(present).filter(mask) for column in (digests, ids))
    return PartValues(digests, ids, values[fits], int(len(fits) - fits.sum()))
