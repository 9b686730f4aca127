"""The story: which pass follows which, from a recipe to a result.

    sources ─plan→ parts ─fetch→ images ─embed→ embeddings ─signals→ columns ─select→ decisions ─pack→ shards ─→ report
                                                     └────dedup→ near pairs ──────┘

The command line, the tests and `pipelines/` all come through `run`.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import pyarrow.parquet as pq

from curate.demo import truth
from curate.errors import BrokenResult, RunIncomplete
from curate.layout import (
    SET_FOLDERS,
    Layout,
    Prepared,
    card_settings,
    head_params,
    lay_out,
    prompt_sets,
    scorers,
    target_sets,
)
from curate.pack.worker import n_shards
from curate.runs import latest as decided
from curate.runs.driver import RECIPE, Engine, Watcher, Work, claim, drive, result_files
from curate.runs.options import Options, manifest_name
from curate.runs.stop_rules import MinSuccess, nothing_kept
from curate.signals import registry
from curate.store import WHOLE, Inputs, Json, Store, key


@dataclass
class Outcome:
    """How a run ended, as far as it went."""

    store: Store
    missing: list[int] = field(default_factory=list)
    funnel: Json | None = None
    evaluation: Json | None = None
    report: str | None = None
    manifest: Json | None = None
    shortfall: str = ""
    """Why there is no result, though every pass before it ran to its end."""

    @property
    def result(self) -> str | None:
        """Where the shards lie."""
        return self.store.path(str(self.manifest["pack"])) if self.manifest else None


def run(prepared: Prepared, engine: Engine, watcher: Watcher, options: Options) -> Outcome:
    """Runs what is not done yet, to the result or to `options.until`.

    Raises:
        UsageError: a pass found an input or the recipe to be wrong.
        RunIncomplete: parts are set aside, or hardly anything could be fetched.
    """
    store, limits, fetch = prepared.store, prepared.recipe.limits, prepared.recipe.fetch
    success = MinSuccess(_fetch_name(0), fetch.min_success, fetch.min_success_window)
    outcome = Outcome(store)

    def go(*works: Work, by_part: bool = False) -> None:
        # Parts that were set aside stay so, for the run can go on without them; without a whole it cannot.
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

    # First: what is wrong inside a source shows here, and mended it is another source, which the folder has to take.
    go(_plan(prepared, lay_out(prepared, 1)))
    claim(store, prepared.identity)
    decided.begin(store, options.sample)
    store.put(RECIPE, (prepared.recipe.model_dump_json(indent=1) + "\n").encode())
    layout = planned(prepared, options)
    assert layout is not None
    if options.reaches("fetch"):
        go(*_by_part(prepared, layout, options), by_part=True)
        _check_missing(outcome, layout, options)
    layout = planned(prepared, options, outcome.missing)
    assert layout is not None
    if options.reaches("dedup") and "dedup" in layout.passes:
        go(_dedup(prepared, layout))
    if options.reaches("select"):
        go(_select(prepared, layout))
        outcome.funnel = layout.passes["select"].folder.json("funnel.json")
        decided.record(store, options.sample, _folders(layout, options))
    if options.reaches("pack") and outcome.funnel:
        shards = n_shards(layout.passes["select"].folder, prepared.recipe.pack.shard_size)
        if shards:
            go(_pack(prepared, layout, shards))
            go(_card(prepared, layout))
            _check_packed(layout, shards, int(outcome.funnel["kept"]))
        else:
            outcome.shortfall = _nothing_kept(prepared, layout, options, outcome.funnel)
        if options.reaches("report"):
            if options.truth:
                outcome.evaluation = truth.evaluate(decisions(layout), pq.read_table(options.truth)).to_json()
            go(_report(prepared, layout, options, outcome.evaluation))
            outcome.report = store.path(f"{layout.passes['report'].folder.path}/index.html")
        if options.reaches("report") and shards:
            outcome.manifest = _manifest(layout, options, shards)
            content = json.dumps(outcome.manifest, sort_keys=True, indent=1) + "\n"
            store.put(manifest_name(options.sample), content.encode())
    return outcome


def planned(prepared: Prepared, options: Options, missing: list[int] | None = None) -> Layout | None:
    """The layout of a run whose plan is done, or None."""
    plan = lay_out(prepared, 1).passes["plan"].folder
    if not plan.is_done():
        return None
    digest = hashlib.sha256(options.truth.read_bytes()).hexdigest() if options.truth else None
    n_parts = plan.marker().counts["parts"]
    return lay_out(prepared, n_parts, sample=options.sample, missing=missing or (), truth=digest)


def decisions(layout: Layout) -> Iterator[tuple[bytes, bool, str | None]]:
    """Every row's pair_id, whether it is kept, and the reason where not."""
    for part in layout.parts:
        table = layout.passes["select"].folder.table("decisions.parquet", part, ["pair_id", "kept", "reason"])
        yield from zip(*(table[name].to_pylist() for name in table.column_names), strict=True)


def _plan(prepared: Prepared, layout: Layout) -> Work:
    settings: Json = {
        "source": prepared.recipe.source.model_dump(mode="json"),
        "seed": prepared.recipe.seed,
        "part_size": prepared.recipe.part_size,
        "endpoint": prepared.recipe.storage.endpoint,
    }
    outputs = {"plan": layout.passes["plan"]}
    return Work("plan", "curate.plan.worker:open_worker", settings, outputs, Inputs({}, ()), (WHOLE,))


def _by_part(prepared: Prepared, layout: Layout, options: Options) -> list[Work]:
    """fetch, embed and signals: chained, a part is embedded while others are fetched."""
    recipe, passes = prepared.recipe, layout.passes
    counts = passes["plan"].folder.marker().counts
    rows = counts["rows"] / counts["parts"]
    settings: Json
    fetch_settings: Json = {
        **recipe.fetch.model_dump(mode="json"),
        "blocked": prepared.blocked,
        "endpoint": recipe.storage.endpoint,
    }
    works: list[Work] = []
    for number, fetch in enumerate(layout.fetches):
        # A round holds all that the ones before it had: of those only what it still lacks is needed.
        later = layout.fetches[number + 1 : number + 2]
        has = later[0].folder.units() if later else set()
        opener, folders, settings = "worker", {"plan": passes["plan"].folder}, fetch_settings
        if recipe.source.kind == "samples":
            opener = "from_samples"
            settings = {**fetch_settings, "places": [place["path"] for place in prepared.identity["source"]]}
        if number:
            opener, folders["before"] = "retry_round", layout.fetches[number - 1].folder
            settings = {**fetch_settings, "classes": fetch.params["classes"]}
        works.append(
            Work(
                _fetch_name(number),
                f"curate.fetch.{opener}:open_worker",
                settings,
                {"fetch": fetch},
                Inputs(folders, layout.parts),
                [part for part in layout.parts if part not in has],
                rows,
                after=(_fetch_name(number - 1),) if number else (),
                processes=recipe.fetch.processes,
            )
        )
    embed_settings: Json = {
        "models": {
            name: {**model.model_dump(mode="json"), "weights_sha256": prepared.facts[name].weights_sha256}
            for name, model in recipe.models.items()
        },
        "device": recipe.embed.device,
        "endpoint": recipe.storage.endpoint,
    }
    if options.reaches("embed"):
        embeddings = [name for name in passes if name.startswith("embed-")]
        settings = {**embed_settings, "decode": recipe.embed.decode, "decoders": recipe.embed.decoders}
        works.append(
            Work(
                "embed",
                "curate.embed.worker:open_worker",
                settings,
                {name: passes[name] for name in ("pixels", *embeddings)},
                layout.inputs("plan", "fetch"),
                layout.parts,
                rows,
                after=(works[-1].name,),
                processes=recipe.embed.processes,
                wants_gpu=recipe.embed.device != "cpu",
                reads_ahead=True,
            )
        )
    sets = {"prompts": prompt_sets(recipe), "targets": target_sets(prepared)}
    if options.reaches("signals"):
        works += [
            Work(
                name,
                f"curate.embed.{name}:open_worker",
                {**embed_settings, "sets": asked},
                {folder: passes[folder] for folder in asked},
                Inputs({}, ()),
                (WHOLE,),
                wants_gpu=recipe.embed.device != "cpu",
            )
            for name, asked in sets.items()
            if asked
        ]
        columns = [name for name in passes if name.startswith("signals-")]
        works.append(
            Work(
                "signals",
                "curate.signals.worker:open_worker",
                {"scorers": _scorers(prepared)},
                {name: passes[name] for name in columns},
                layout.inputs(*(name for name in passes if name.startswith(("plan", "embed-", *SET_FOLDERS)))),
                layout.parts,
                rows,
                after=("embed", *(name for name, asked in sets.items() if asked)),
            )
        )
    return works


def _scorers(prepared: Prepared) -> Json:
    """Every scorer with what it is given: folders, and for a head its file."""
    recipe, own = prepared.recipe, head_params(prepared)
    found = scorers(recipe)
    for name, asked in recipe.signals.heads.items():
        place = {"path": asked.path, "endpoint": recipe.storage.endpoint}
        found[f"head_{name}"] |= {**own[f"head_{name}"], **place}
    return found


def _fetch_name(number: int) -> str:
    """How the fetch of a round is called; 0 is the first."""
    return f"fetch-{number}" if number else "fetch"


def _check_missing(outcome: Outcome, layout: Layout, options: Options) -> None:
    if not outcome.missing or options.allow_missing:
        return
    named = ", ".join(key(part) for part in outcome.missing[:5]) + (", …" if outcome.missing[5:] else "")
    raise RunIncomplete(
        f"{len(outcome.missing)} of {len(layout.parts)} parts are set aside ({named}); tracebacks lie in "
        f"{outcome.store.url}/*/failed. --retry-parts begins anew with them, --allow-missing goes on without"
    )


def _dedup(prepared: Prepared, layout: Layout) -> Work:
    recipe, first = prepared.recipe, prepared.models[0]
    settings: Json = {
        "floor": recipe.dedup.floor,
        "tile": recipe.dedup.tile,
        "model": first,
        "device": recipe.embed.device,
        "threads": recipe.models[first].threads,
    }
    outputs = {"dedup": layout.passes["dedup"]}
    inputs = layout.inputs("fetch", f"embed-{first}")
    opener = "curate.dedup.worker:open_worker"
    return Work("dedup", opener, settings, outputs, inputs, (WHOLE,), wants_gpu=recipe.embed.device != "cpu")


def _select(prepared: Prepared, layout: Layout) -> Work:
    settings: Json = {
        "steps": [step.model_dump(mode="json") for step in prepared.recipe.select],
        **_columns(prepared),
        "memory_limit": "1GB",
    }
    outputs = {"select": layout.passes["select"]}
    inputs = layout.inputs(*layout.measured)
    return Work("select", "curate.select.worker:open_worker", settings, outputs, inputs, (WHOLE,))


def _columns(prepared: Prepared) -> Json:
    """Which embedding and signal tables there are, with the signals' columns.

    By name: in which order a recipe has its signals is no part of a fingerprint, and must not decide on bytes.
    """
    names = dict(sorted(scorers(prepared.recipe).items()))
    return {
        "models": prepared.models,
        "signals": {f"signals-{name}": list(registry.columns(name, params)) for name, params in names.items()},
    }


def _pack(prepared: Prepared, layout: Layout, shards: int) -> Work:
    size = prepared.recipe.pack.shard_size
    settings: Json = {"shard_size": size, **_columns(prepared)}
    outputs = {"pack": layout.passes["pack"]}
    inputs = layout.inputs(*layout.measured, "select")
    processes = min(shards, os.cpu_count() or 1)
    return Work(
        "pack", "curate.pack.worker:open_worker", settings, outputs, inputs, range(shards), size, processes=processes
    )


def _card(prepared: Prepared, layout: Layout) -> Work:
    settings: Json = {
        "shard_size": prepared.recipe.pack.shard_size,
        **_columns(prepared),
        **card_settings(prepared),
    }
    outputs = {"pack": layout.passes["pack"]}
    inputs = layout.inputs(*layout.measured, "select")
    return Work("card", "curate.pack.card:open_worker", settings, outputs, inputs, (WHOLE,))


def _check_packed(layout: Layout, shards: int, kept: int) -> None:
    folder = layout.passes["pack"].folder
    packed = sum(folder.marker(shard).counts["samples"] for shard in range(shards))
    if packed != kept:
        raise BrokenResult(f"{folder.store.path(folder.path)} holds {packed} samples, but {kept} pairs were kept")


def _report(prepared: Prepared, layout: Layout, options: Options, evaluation: Json | None) -> Work:
    recipe = prepared.recipe
    settings: Json = {
        "title": recipe.output.rstrip("/").rsplit("/", 1)[-1],
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "facts": {name: asdict(facts) for name, facts in prepared.facts.items()},
        "evaluation": evaluation,
        "examples": 12,
        "run": {
            "url": recipe.output,
            "sample": options.sample,
            "engine": options.engine,
            "allow": recipe.fetch.allow,
            "missing": list(layout.missing),
        },
    }
    outputs = {"report": layout.passes["report"]}
    return Work("report", "curate.report.worker:open_worker", settings, outputs, layout.inputs(), (WHOLE,))


def _nothing_kept(prepared: Prepared, layout: Layout, options: Options, funnel: Json) -> str:
    again = ""
    if prepared.recipe.source.kind == "urls":
        of = f" --sample {options.sample:g}" if options.sample else ""
        again = f"curate retry-failed {prepared.store.url}{of}"
    return nothing_kept(funnel, layout.passes["fetch"].folder, layout.parts, again)


def _folders(layout: Layout, options: Options) -> Json:
    return {
        "version": 1,
        "sample": options.sample,
        "n_parts": layout.n_parts,
        "parts": len(layout.parts) + len(layout.missing),
        "missing_parts": list(layout.missing),
        "folders": {name: pass_.folder.path for name, pass_ in layout.passes.items()},
        "rounds": [fetch.folder.path for fetch in layout.earlier],
    }


def _manifest(layout: Layout, options: Options, shards: int) -> Json:
    pack = layout.passes["pack"].folder
    files = result_files(pack, [*range(shards), WHOLE])
    return {**_folders(layout, options), "pack": pack.path, "result": files}
