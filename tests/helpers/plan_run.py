"""Plans of small lists."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.plan import passes, samples
from curate.plan import source as lists
from curate.plan.worker import open_worker
from curate.recipe import Source
from curate.runs.driver import drive
from curate.runs.passes import Declaration, Pass
from curate.runs.work import Engine, UnitResult
from curate.store import WHOLE, Folder, Inputs, Outputs, Store
from helpers.inline_engine import InlineEngine


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


def plan_pass(root: Path) -> Pass:
    """The pass `plan` of a run."""
    return Pass.of(Store(str(root)), Declaration("plan", "plan", 0))


def plan_by_units(
    root: Path,
    of: dict[str, Any],
    part_size: int = 1000,
    seed: int = 0,
    engine: Engine | None = None,
    processes: int = 1,
) -> Folder:
    """Runs the works of a long list, with an engine of the test's own process by default."""
    settings = {"source": of, "seed": seed, "part_size": part_size, "endpoint": None}
    plan = plan_pass(root)
    sizes = [file["size"] for file in lists.listing(of["paths"])]
    engine = engine or InlineEngine()
    for work in passes.by_units(plan, settings, sizes, processes):
        assert drive([work], engine, Silent()) == {work.name: {}}
    return plan.folder


def written(folder: Folder) -> dict[str, Any]:
    """What a plan holds, by unit: the digest of each file, counts and notes."""
    return {
        str(unit): (
            {role: (info.sha256, info.rows) for role, info in marker.files.items()},
            dict(marker.counts),
            list(marker.notes),
        )
        for unit, marker in ((unit, folder.marker(unit)) for unit in sorted(folder.units()))
    }


class Silent:
    """A watcher that shows nothing."""

    def begin(self, name: str, total: int, done: int, rows: float) -> None:
        """See `Watcher`."""

    def advance(self, name: str, result: UnitResult) -> None:
        """See `Watcher`."""

    def end(self, name: str) -> None:
        """See `Watcher`."""

    def tell(self, line: str) -> None:
        """See `Watcher`."""


def rows_of(folder: Folder) -> pa.Table:
    """All rows in the order of the source."""
    parts = folder.json("summary.json")["parts"]
    return pa.concat_tables([folder.table("pairs.parquet", part) for part in range(parts)]).sort_by("source_row")
