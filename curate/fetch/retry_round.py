"""A further round of fetching: fetches the images of some error classes again and copies all others.

Its files hold all images of the part, so later passes read one folder (docs/decisions/0005-rounds.md).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import BrokenResult
from curate.fetch.part import write
from curate.fetch.pictures.sorted_tar import Spool
from curate.fetch.worker import FetchWorker
from curate.fetch.worker import open_worker as open_fetch
from curate.scratch import scratch
from curate.store import Folder, Inputs, Outputs
from curate.stored_images import read_all


def open_worker(settings: Mapping[str, Any]) -> "RoundWorker":
    """Returns a worker for a round.

    Args:
        settings: as for `curate.fetch.worker.open_worker`, and `classes`: the error classes to fetch again.

    Raises:
        UsageError: as `curate.fetch.worker.open_worker`.
    """
    return RoundWorker(open_fetch(settings), settings["classes"])


class RoundWorker:
    """Fetches those images of a part again that failed with one of some error classes.

    Args:
        fetch: the worker that fetches them.
        classes: the error classes.
    """

    def __init__(self, fetch: FetchWorker, classes: Sequence[str]) -> None:
        self._fetch = fetch
        self._classes = pa.array(classes, pa.string())

    def __call__(self, unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        """Writes `outputs["fetch"]`: the rows of the round `inputs["before"]`, with those fetched now in their place.

        Raises:
            BrokenResult: the round before does not match the plan, or its tar does not match its table.
            OSError: the pictures cannot be written to the local disk or the store.
        """
        out, before = outputs["fetch"], inputs["before"]
        images, expected = self._fetch.images(inputs["plan"], unit)
        table = before.table("images.parquet", unit)
        if not table["image_id"].equals(images["image_id"]):
            raise BrokenResult(f"{before.path}: images.parquet does not have the images of the plan")
        again = pc.indices_nonzero(pc.is_in(table["error_class"], self._classes))
        with scratch("fetch") as folder, Spool(folder / "spool") as spool:
            fresh = self._fetch.fetch(images.take(again), [expected[row] for row in again.to_pylist()], spool, folder)
            # In the spool, pictures that are fetched now have the first positions, those of the round before follow.
            _take_over(before, unit, table, spool, first=len(fresh))
            order = _replaced(len(table), again)
            whole = pa.concat_tables([fresh, table], promote_options="default").take(order)
            write(out, whole, spool, folder, order.to_pylist())
        out.counts.update(_gained(table.take(again), fresh))


def _take_over(before: Folder, unit: int, table: pa.Table, spool: Spool, first: int) -> None:
    """Copies the pictures of the round before into the spool, at the positions from `first` on."""
    for row, picture in read_all(before, unit, table):
        spool.add(first + row, picture)


def _gained(lost: pa.Table, fresh: pa.Table) -> dict[str, int]:
    """Returns how many images were fetched again and how many succeeded: in all, and by their previous error class."""
    came = pc.is_valid(fresh["file"])
    counts = {"retried": len(lost), "recovered": pc.sum(came, min_count=0).as_py()}
    for name in pc.unique(lost["error_class"]).to_pylist():
        of = pc.equal(lost["error_class"], name)
        counts[f"retried:{name}"] = pc.sum(of).as_py()
        counts[f"recovered:{name}"] = pc.sum(pc.and_(of, came)).as_py()
    return counts


def _replaced(rows: int, again: pa.Array) -> pa.Array:
    """Returns the position of each row in the concatenation of the new rows and the old ones, int64[rows]."""
    places = list(range(len(again), len(again) + rows))
    for fresh, row in enumerate(again.to_pylist()):
        places[row] = fresh
    return pa.array(places, pa.int64())
