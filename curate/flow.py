"""Runs a recipe from its sources to a result: which pass follows which.

    sources ─plan→ parts ─fetch→ images ─embed→ embeddings ─signals→ columns ─select→ decisions ─pack→ shards ─→ report
                                                     └────dedup→ near pairs ──────┘

The command line, the tests and `pipelines/` all call `run`. What a pass depends on, reads and does is declared in its
room's `passes.py`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow.parquet as pq

from curate.dedup import passes as dedup
from curate.demo import truth
from curate.embed import passes as embed
from curate.errors import RunIncomplete
from curate.fetch import passes as fetch
from curate.layout import is_of_an_earlier_release, lay_out, planned
from curate.pack import passes as pack
from curate.plan import passes as plan
from curate.prepare import Prepared, as_now
from curate.report import passes as report
from curate.runs import latest
from curate.runs.driver import drive
from curate.runs.identity import claim
from curate.runs.options import RECIPE, Options, manifest_name
from curate.runs.passes import Layout, result_files
from curate.runs.stop_rules import MinSuccess, nothing_kept
from curate.runs.work import Engine, Watcher, Work
from curate.select import passes as select
from curate.signals import passes as signals
from curate.store import WHOLE, Json, Store, key


@dataclass
class Outcome:
    """The outcome of a run; what belongs to a pass that was not reached is empty."""

    store: Store
    missing: list[int] = field(default_factory=list)
    funnel: Json | None = None
    evaluation: Json | None = None
    report: str | None = None
    manifest: Json | None = None
    shortfall: str = ""
    """Why there is no result although every pass before `pack` is done; else empty."""
    is_unchanged: bool = False
    """Whether the newest round of fetching brought no image back, so that later passes read the round before it."""

    @property
    def result(self) -> str | None:
        """Path or URL of the result's folder; None where there is no result."""
        return self.store.path(str(self.manifest["pack"])) if self.manifest else None


def run(prepared: Prepared, engine: Engine, watcher: Watcher, options: Options) -> Outcome:
    """Runs what is not done yet, up to the result or to `options.until`.

    Raises:
        UsageError: a pass found an input or the recipe to be wrong.
        RunIncomplete: parts are set aside, or too few images could be fetched.
    """
    store, limits = prepared.store, prepared.recipe.limits
    fetch_keys = prepared.recipe.fetch
    success = MinSuccess(fetch.work_name(0), fetch_keys.min_success, fetch_keys.min_success_window)
    outcome = Outcome(store)

    def go(*works: Work, by_part: bool = False) -> None:
        # The run can continue without some parts, so parts that were set aside stay so; without a whole it cannot.
        forget = options.retry_parts or not by_part
        aside = drive(works, engine, watcher, max_failed=limits.max_failed_parts, forget_failures=forget, check=success)
        for work in works:
            for unit, error in aside[work.name].items():
                if not by_part or unit == WHOLE:
                    raise RunIncomplete(
                        f"{work.name} failed twice{'' if unit == WHOLE else f' at {key(unit)}'}: {error} "
                        f"(see {store.path(work.ledger)}/failed)"
                    )
                outcome.missing = sorted({*outcome.missing, unit})

    if prepared.caution:
        watcher.tell(prepared.caution)
    if is_of_an_earlier_release(prepared):
        watcher.tell(f"{store.url} was started by an earlier release of curate: its passes are computed again, once")
    # Before the folder is claimed: a fault inside a source shows here, and the corrected source is another one, which
    # the same folder has to accept.
    go(plan.work(prepared, lay_out(prepared, 1)))
    claim(store, prepared.identity, as_now)
    latest.begin(store, options.sample)
    store.put(RECIPE, (prepared.recipe.model_dump_json(indent=1) + "\n").encode())
    layout = planned(prepared, options)
    assert layout is not None
    while options.reaches("fetch") and (ended := fetch.unsettled(prepared, layout)):
        # By itself, as what follows is done only where it brings something back.
        go(*fetch.works(prepared, layout), by_part=True)
        _check_missing(outcome, layout, options)
        newest = layout.passes["fetch"]
        prepared = fetch.settled(prepared, layout, ended)
        outcome.missing = []
        layout = planned(prepared, options)
        assert layout is not None
        outcome.is_unchanged = layout.passes["fetch"].folder.path != newest.folder.path
        if outcome.is_unchanged and options.only_with_gain:
            return outcome
    if layout.sample:
        watcher.tell(str(layout.sample))
    for pass_ in layout.of("embed").values():
        if (notice := pass_.begun_otherwise()) and not pass_.folder.units().issuperset(layout.parts):
            watcher.tell(notice)

    if options.reaches("fetch"):
        go(*_by_part(prepared, layout, options), by_part=True)
        _check_missing(outcome, layout, options)
    layout = planned(prepared, options, outcome.missing)
    assert layout is not None
    if options.reaches("dedup"):
        for search in dedup.works(prepared, layout):
            go(search)
    if options.reaches("select"):
        go(select.work(prepared, layout))
        outcome.funnel = layout.passes["select"].folder.json("funnel.json")
        latest.record(store, options.sample, _folders(layout, options))
    if options.reaches("pack") and outcome.funnel:
        if outcome.funnel["kept"]:
            go(pack.work(prepared, layout))
            go(pack.card_work(prepared, layout))
            pack.check(prepared, layout, int(outcome.funnel["kept"]))
        else:
            outcome.shortfall = _nothing_kept(prepared, layout, options, outcome.funnel)
        if options.reaches("report"):
            if options.truth:
                outcome.evaluation = truth.evaluate(decisions(layout), pq.read_table(options.truth)).to_json()
            go(report.work(prepared, layout, outcome.evaluation, options.engine))
            outcome.report = store.path(f"{layout.passes['report'].folder.path}/index.html")
            if outcome.funnel["kept"]:
                outcome.manifest = _manifest(prepared, layout, options, int(outcome.funnel["kept"]))
                content = json.dumps(outcome.manifest, sort_keys=True, indent=1) + "\n"
                store.put(manifest_name(options.sample), content.encode())
    return outcome


def decisions(layout: Layout) -> Iterator[tuple[bytes, bool, str | None]]:
    """Yields for every row of the covered parts: pair_id, whether it is kept, and the drop reason or None."""
    for part in layout.parts:
        table = layout.passes["select"].folder.table("decisions.parquet", part, ["pair_id", "kept", "reason"])
        yield from zip(*(table[name].to_pylist() for name in table.column_names), strict=True)


def _by_part(prepared: Prepared, layout: Layout, options: Options) -> list[Work]:
    """Returns the works of fetch, embed and signals, chained: a part is embedded while others are fetched."""
    works = list(fetch.works(prepared, layout))
    if options.reaches("embed"):
        works.append(embed.work(prepared, layout, after=works[-1].name))
    if options.reaches("signals"):
        sets = list(embed.set_works(prepared, layout))
        works += [*sets, signals.work(prepared, layout, after=[works[-1].name, *(work.name for work in sets)])]
    return works


def _check_missing(outcome: Outcome, layout: Layout, options: Options) -> None:
    if not outcome.missing or options.allow_missing:
        return
    named = ", ".join(key(part) for part in outcome.missing[:5]) + (", …" if outcome.missing[5:] else "")
    raise RunIncomplete(
        f"{len(outcome.missing)} of {len(layout.parts)} parts are set aside ({named}); their tracebacks are in "
        f"{outcome.store.url}/*/failed. --retry-parts starts them again, --allow-missing continues without them"
    )


def _nothing_kept(prepared: Prepared, layout: Layout, options: Options, funnel: Json) -> str:
    again = ""
    if prepared.recipe.source.kind == "urls":
        of = f" --sample {options.sample:g}" if options.sample else ""
        again = f"curate retry-failed {prepared.store.url}{of}"
    return nothing_kept(funnel, layout.passes["fetch"].folder, layout.parts, again)


def _folders(layout: Layout, options: Options) -> Json:
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


def _manifest(prepared: Prepared, layout: Layout, options: Options, kept: int) -> Json:
    folder = layout.passes["pack"].folder
    files = result_files(folder, [*range(pack.shards(prepared, layout)), WHOLE])
    return {**_folders(layout, options), "pack": folder.path, **pack.manifest(prepared, kept), "result": files}
