"""The folders of a run: collects the passes that every room declares, and gives each its folder.

A pass's folder is named by the fingerprint of everything its content depends on (`curate.runs.passes`), so an existing
folder is reused, and a changed threshold makes new folders of select, pack and report only.
"""

import hashlib
from collections.abc import Sequence

from curate import image_sets
from curate.dedup import passes as dedup
from curate.dedup.against import passes as against
from curate.embed import passes as embed
from curate.fetch import passes as fetch
from curate.pack import passes as pack
from curate.plan import passes as plan
from curate.prepare import Prepared, as_now
from curate.report import passes as report
from curate.runs.identity import stored
from curate.runs.options import Options
from curate.runs.passes import Declaration, Layout, Pass
from curate.runs.sample import Sample
from curate.select import passes as select
from curate.signals import passes as signals
from curate.store import Folder, Json


def plan_folder(prepared: Prepared) -> Folder:
    """The folder of the plan; the other folders follow once it is done."""
    return Pass.of(prepared.store, plan.declare(prepared)).folder


def is_of_an_earlier_release(prepared: Prepared) -> bool:
    """Whether a release with other fingerprints started the run and it has not been continued since."""
    if not prepared.store.exists("run.json"):
        return False
    present = stored(prepared.store)
    return present != as_now(present) and not plan_folder(prepared).is_done()


def planned(prepared: Prepared, options: Options, missing: Sequence[int] = ()) -> Layout | None:
    """Returns every pass with its folder, or None while the plan, or that of a set of images, is not done.

    Args:
        prepared: the recipe, checked.
        options: `sample` and `truth` are used.
        missing: parts that are set aside and left out by the global passes.
    """
    folder = plan_folder(prepared)
    if not folder.is_done() or not image_sets.are_planned(prepared):
        return None
    counts = folder.marker().counts
    truth = hashlib.sha256(options.truth.read_bytes()).hexdigest() if options.truth else None
    sample = None
    if options.sample is not None:
        sample = Sample.of(options.sample, folder.table("parts.parquet", columns=["rows"])["rows"].to_pylist())
    return lay_out(prepared, counts["parts"], counts["rows"], sample=sample, missing=missing, truth=truth)


def lay_out(
    prepared: Prepared,
    n_parts: int,
    n_rows: int = 0,
    *,
    sample: Sample | None = None,
    missing: Sequence[int] = (),
    truth: str | None = None,
) -> Layout:
    """Returns every pass with its folder.

    Args:
        prepared: the recipe, checked.
        n_parts: parts of the plan; passes that work part by part do not depend on it.
        n_rows: rows of the plan.
        sample: the parts and rows that the global passes cover, or None for all.
        missing: parts that are set aside and left out by the global passes.
        truth: the SHA-256 of a demo's truth table.
    """
    passes: dict[str, Pass] = {}

    def add(*declared: Declaration) -> None:
        for one in declared:
            passes[one.name] = Pass.of(
                prepared.store, one, [passes[name].folder for name in one.reads], prepared.healed
            )

    covered = n_parts if sample is None else sample.parts
    scope = {"parts": covered, "missing": list(missing)}
    rows = {"rows": sample.rows} if sample and sample.cuts else {}
    add(plan.declare(prepared))
    add(*fetch.declare_known(prepared))
    for one in fetch.declare(prepared, passes["plan"]):
        add(one)
    add(*embed.declare(prepared))
    add(*signals.declare(prepared))
    add(*dedup.declare(prepared, scope, sample.rows if sample else n_rows))
    add(*against.declare(prepared, image_sets.layouts(prepared)))
    columns = [name for name, pass_ in passes.items() if pass_.declared.is_decided_on]
    add(select.declare(prepared, {**scope, **rows}, columns))
    add(pack.declare(prepared, columns))
    add(report.declare(list(passes), truth))
    parts = tuple(part for part in range(covered) if part not in set(missing))
    return Layout(passes, n_parts, parts, tuple(missing), n_rows / n_parts, sample)


def folders(layout: Layout, options: Options) -> Json:
    """Returns the parts of a run and the folder of each pass, as manifest.json and decided.json store them."""
    *earlier, _newest = layout.of("fetch")
    folders = {name: pass_.folder.path for name, pass_ in layout.passes.items()}
    return {
        "version": 1,
        "sample": options.sample,
        "n_parts": layout.n_parts,
        "parts": len(layout.parts) + len(layout.missing),
        "missing_parts": list(layout.missing),
        "folders": {name: path for name, path in folders.items() if name not in earlier},
        "rounds": [folders[name] for name in earlier],
    }
