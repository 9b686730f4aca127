"""The URLs that earlier results have: with `fetch.known_results`, their images are not fetched again.

The ids of a result's images are gathered once, by units of some tables, each as a sorted list; a worker of fetch copies
the lists to its local disk and maps them into memory, 16 bytes a URL, and looks up the ids of each part.
"""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import RecipeError, one_line
from curate.schema import ID, image_id
from curate.store import Folder, Inputs, Outputs, Store, access_errors
from curate.summaries import markers

NAME = "known_urls"
"""The short name of the pass."""

ROLE = "ids.parquet"

_ID = "S16"

_WHERE = "fetch.known_results"

Worker = Callable[[int, Inputs, Mapping[str, Outputs]], None]


def open_gather(settings: Mapping[str, Any]) -> Worker:
    """The worker that writes the ids of the images of some tables.

    Args:
        settings: `tables`, of each its `path`, `sha256` and `rows`; `units`, of each the numbers of its tables;
            `endpoint`, an S3 server other than AWS.

    Raises:
        RecipeError: a table cannot be read, or is not the one that its manifest describes.
    """

    def gather(unit: int, _inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        (out,) = outputs.values()
        ids = set[bytes]()
        for number in settings["units"][unit]:
            table = settings["tables"][number]
            ids.update(map(image_id, _urls(table["path"], table["sha256"], settings["endpoint"])))
        out.put_table(ROLE, pa.table([pa.array(sorted(ids), ID)], ["image_id"]))
        out.counts.update(urls=len(ids))

    return gather


def open_count(settings: Mapping[str, Any]) -> Worker:
    """The worker that adds up the ids; `settings` as for `open_gather`."""

    def count(_unit: int, _inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        (out,) = outputs.values()
        units = len(settings["units"])
        urls = sum(marker.counts["urls"] for _, marker in markers(out.folder, range(units)))
        out.counts.update(units=units, urls=urls)

    return count


class KnownUrls:
    """The images that earlier results have.

    Args:
        folder: the folder of the pass, which is done.
        scratch: a local folder for the lists, which has to last as long as this object.
    """

    def __init__(self, folder: Folder, scratch: Path) -> None:
        self._lists = [_mapped(folder, unit, scratch) for unit in range(folder.marker().counts["units"])]

    def have(self, ids: Sequence[bytes]) -> npt.NDArray[np.bool_]:
        """Returns which images an earlier result has, by their ids."""
        wanted, found = np.array(ids, _ID), np.zeros(len(ids), np.bool_)
        for listed in self._lists:
            if len(listed):
                at = np.minimum(np.searchsorted(listed, wanted), len(listed) - 1)
                found |= listed[at] == wanted
        return found


def _mapped(folder: Folder, unit: int, scratch: Path) -> npt.NDArray[Any]:
    path = scratch / f"ids-{unit}"
    ids = folder.table(ROLE, unit)["image_id"].to_pylist()
    path.write_bytes(b"".join(ids))
    return np.memmap(path, _ID, "r") if ids else np.empty(0, _ID)


def _urls(path: str, sha256: str, endpoint: str | None) -> list[str]:
    folder, _, name = path.rpartition("/")
    try:
        data = Store(folder, endpoint).read(name)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise RecipeError(
                f"fetch.known_results: {path} is not the file that its manifest describes (sha256 differs)"
            )
        urls: list[str] = pq.read_table(io.BytesIO(data), columns=["url"])["url"].to_pylist()
    except (*access_errors(path), pa.ArrowException) as error:
        raise RecipeError(f"{_WHERE}: {path} cannot be read: {one_line(error)}") from error
    return urls
