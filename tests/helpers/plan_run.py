"""Plans of small lists."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.plan import samples
from curate.plan import source as lists
from curate.plan.worker import open_worker
from curate.recipe import Source
from curate.store import WHOLE, Folder, Inputs, Outputs, Store


def source(*paths: Path | str, **more: Any) -> dict[str, Any]:
    """A recipe's source, dumped."""
    return Source(paths=[str(path) for path in paths] or ["-"]).model_dump() | more


def columns(of: dict[str, Any], endpoint: str | None = None) -> pa.Schema:
    """The schema of its plan's table."""
    return (samples if of["kind"] == "samples" else lists).look(of, endpoint).plan


def run_plan(
    root: Path, of: dict[str, Any], part_size: int = 1000, seed: int = 0, endpoint: str | None = None
) -> tuple[Folder, Outputs]:
    """Runs the pass."""
    folder = Folder(Store(str(root)), "plan", "0")
    out = folder.outputs()
    settings = {"source": of, "seed": seed, "part_size": part_size, "endpoint": endpoint}
    open_worker(settings)(WHOLE, Inputs({}, ()), {"plan": out})
    out.commit()
    return folder, out


def rows_of(folder: Folder) -> pa.Table:
    """All rows in the order of the source."""
    parts = folder.json("summary.json")["parts"]
    return pa.concat_tables([folder.table("pairs.parquet", part) for part in range(parts)]).sort_by("source_row")
