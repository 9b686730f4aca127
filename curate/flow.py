"""Runs a recipe from its sources to a result; defines the order of the passes.

    sources ─plan→ parts ─fetch→ images ─embed→ embeddings ─signals→ columns ─select→ decisions ─pack→ shards ─→ report
                                                     └────dedup→ near pairs ──────┘

The command line, the tests and `pipelines/` all call `run`. Each room's `passes.py` declares what its passes depend on,
read and do.
"""

from dataclasses import replace

import pyarrow.parquet as pq

from curate import image_sets
from curate.dedup import passes as dedup
from curate.dedup.against import passes as against
from curate.demo import truth
from curate.embed import passes as embed
from curate.errors import Damaged, RunIncomplete
from curate.fetch import passes as fetch
from curate.layout import folders, is_of_an_earlier_release, lay_out, planned
from curate.pack import passes as pack
from curate.plan import passes as plan
from curate.prepare import Prepared, as_now
from curate.report import passes as report
from curate.runs import healing, latest, retention
from curate.runs.driver import drive
from curate.runs.identity import claim
from curate.runs.one_driver import OneDriver
from curate.runs.options import RECIPE, Options, manifest_name
from curate.runs.outcome import Outcome
from curate.runs.passes import Layout
from curate.runs.stop_rules import MinSuccess, nothing_kept
from curate.runs.sweep import sweep_root
from curate.runs.work import Engine, UnitResult, Watcher, Work
from curate.select import passes as select
from curate.signals import passes as signals
from curate.store import WHOLE, key
from curate.summaries import done


def run(prepared: Prepared, engine: Engine, watcher: Watcher, options: Options) -> Outcome:
    """Runs the passes that are not done yet, up to the result or to `options.until`.

    Raises:
        UsageError: a pass found a fault in an input or the recipe.
        RunIncomplete: parts are set aside, or too few images could be fetched.
        BrokenResult: a file that this command wrote again is damaged again, or one that no pass can write again.
        StorageFault: a disk or a store failed for longer than `storage.patience`.
    """
    store, repaired = prepared.store, set[tuple[str, tuple[int, ...], str]]()
    with OneDriver(store, watcher.tell) as driver:
        while True:
            try:
                return _run(prepared, engine, watcher, options, driver)
            except Damaged as damaged:
                place = (damaged.folder, damaged.units, damaged.derived)
                if place in repaired:
                    # It was written by this command: the disk or the store at fault would damage it again.
                    raise
                repaired.add(place)
                engine.close()
                healing.set_aside(store, damaged, watcher.tell)
            except healing.Renewed:
                pass
            prepared = replace(prepared, healed=healing.rounds(store))


def _run(prepared: Prepared, engine: Engine, watcher: Watcher, options: Options, driver: OneDriver) -> Outcome:
    store, limits = prepared.store, prepared.recipe.limits
    fetch_keys = prepared.recipe.fetch
    success = MinSuccess(fetch.work_name(0), fetch_keys.min_success, fetch_keys.min_success_window)
    outcome = Outcome(store)

    def check(name: str, result: UnitResult) -> None:
        driver.check()
        success(name, result)

    def go(*works: Work, by_part: bool = False) -> None:
        # The run can continue without some parts, so these stay set aside; it cannot continue without a whole.
        forget = options.retry_parts or not by_part
        aside = drive(
            works,
            engine,
            watcher,
            max_failed=limits.max_failed_parts,
            part_seconds=limits.part_seconds,
            patience=prepared.recipe.storage.patience,
            forget_failures=forget,
            check=check,
        )
        if is_damaged:
            healing.settle(store, watcher.tell)
        for work in works:
            for unit, error in aside[work.name].items():
                if not by_part or unit == WHOLE:
                    raise RunIncomplete(
                        f"{work.name} failed twice{'' if unit == WHOLE else f' at {key(unit)}'}: {error} "
                        f"(see {store.path(work.ledger)}/failed)"
                    )
                outcome.missing = sorted({*outcome.missing, unit})

    is_damaged = healing.settle(store, watcher.tell)
    if prepared.caution:
        watcher.tell(prepared.caution)
    if is_of_an_earlier_release(prepared):
        watcher.tell(f"{store.url} was started by an earlier release of curate: its passes are computed again, once")
    # The plan runs before the folder is claimed: it finds faults inside a source, and the corrected source has another
    # identity, which the same folder has to accept.
    for work in plan.works(prepared, lay_out(prepared, 1)):
        go(work)
    claim(store, prepared.identity, as_now)
    latest.begin(store, options.sample)
    sweep_root(store)
    prepared.remembered.save(store)
    # Unsorted: the order of its models has a meaning.
    store.put_json(RECIPE, prepared.recipe.as_stored().model_dump(mode="json"), sort_keys=False)
    for work in image_sets.plans(prepared):
        go(work)
    layout = planned(prepared, options)
    assert layout is not None
    retention.check(layout, options)
    if options.reaches("pack") and retention.is_pending(prepared.recipe.keep.images, layout):
        watcher.tell(retention.NOTICE)
    for work in fetch.known_works(prepared, layout) if options.reaches("fetch") else ():
        go(work)
    while options.reaches("fetch") and (ended := fetch.unsettled(prepared, layout)):
        # The round runs by itself, as the passes after it run only where it recovers images.
        go(*fetch.works(prepared, layout), by_part=True)
        outcome.check_missing(layout, allowed=options.allow_missing)
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
        if (notice := pass_.begun_otherwise()) and done(pass_.folder, layout.parts) != set(layout.parts):
            watcher.tell(notice)

    if options.reaches("fetch"):
        go(*_by_part(prepared, layout, options), by_part=True)
        outcome.check_missing(layout, allowed=options.allow_missing)
    layout = planned(prepared, options, outcome.missing)
    assert layout is not None
    if options.reaches("dedup"):
        for search in dedup.works(prepared, layout):
            go(search)
        for of_set in image_sets.works(prepared, layout):
            go(*of_set)
        for search in against.works(prepared, layout, image_sets.layouts(prepared)):
            go(search)
    if options.reaches("select"):
        go(select.work(prepared, layout))
        outcome.funnel = layout.passes["select"].folder.json("funnel.json")
        latest.record(store, options.sample, folders(layout, options))
    if options.reaches("pack") and outcome.funnel:
        made = None
        if outcome.funnel["kept"]:
            go(pack.work(prepared, layout))
            go(pack.card_work(prepared, layout))
            made = pack.manifest(prepared, layout, int(outcome.funnel["kept"]))
        else:
            again = fetch.command_again(prepared, options.sample)
            outcome.shortfall = nothing_kept(outcome.funnel, layout.passes["fetch"].folder, layout.parts, again)
        if options.reaches("report"):
            if options.truth:
                outcome.evaluation = truth.evaluate(select.decisions(layout), pq.read_table(options.truth)).to_json()
            go(report.work(prepared, layout, outcome.evaluation, options.engine))
            folder = layout.passes["report"].folder
            (marker,) = healing.check_sizes(folder, [WHOLE])
            outcome.report = store.path(f"{folder.path}/{marker.files['index.html'].name}")
            if made is not None:
                outcome.manifest = {**folders(layout, options), **made}
                store.put_json(manifest_name(options.sample), outcome.manifest)
                if retention.is_pending(prepared.recipe.keep.images, layout):
                    watcher.tell(retention.release(layout))
    return outcome


def _by_part(prepared: Prepared, layout: Layout, options: Options) -> list[Work]:
    """Returns the works of fetch, embed and signals, chained: a part is embedded while others are fetched."""
    works = list(fetch.works(prepared, layout))
    if options.reaches("embed"):
        works.append(embed.work(prepared, layout, after=works[-1].name))
    # A source without captions has no caption signal, and its recipe may name no other.
    if options.reaches("signals") and layout.of("signals"):
        sets = list(embed.set_works(prepared, layout))
        works += [*sets, signals.work(prepared, layout, after=[works[-1].name, *(work.name for work in sets)])]
    return works
