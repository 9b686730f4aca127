"""The pass `fetch`: a part's images, by download or from samples; every further round is a pass of its own."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace

from curate.credentials import shown
from curate.fetch import known_urls
from curate.keys import chosen
from curate.prepare import Prepared
from curate.runs.booking import for_fetch
from curate.runs.healing import files_before
from curate.runs.passes import Declaration, Layout, Pass
from curate.runs.retry_rounds import Round, recorded, settle
from curate.runs.work import SMALL, Work
from curate.store import WHOLE, Inputs, Json
from curate.summaries import done, markers

VERSION = 1

_OF_PICTURES = {"image_size", "resize", "only_if_bigger", "format", "quality", "max_bytes", "max_pixels", "c2pa"}
"""Keys of `fetch` that affect images read from samples, which are not downloaded."""

_OF_LISTS = {"blocklists", "phash_blocklists", "phash_within", "known_results"}
"""Keys of `fetch` whose fingerprints stand for them: the content of lists and results counts, not their paths."""

KNOWN_ROWS = 1_000_000
"""Rows of earlier results whose ids one unit gathers, in memory."""


def declare(prepared: Prepared, plan: Pass) -> Iterator[Declaration]:
    """Yields the declarations of the first fetch and of its rounds, oldest first; the newest is called `fetch`.

    All later passes read the newest. A round follows one particular first fetch, so rounds of other recipes' fetches
    are left out, and so are rounds that recovered no image. Every round keeps its number, so that a later round over
    the same images has another folder than the one that was left out.
    """
    recipe = prepared.recipe
    if recipe.source.kind == "samples":
        depends = chosen(recipe.fetch, only=_OF_PICTURES)
    else:
        depends = chosen(recipe.fetch, without=_OF_LISTS)
    if prepared.blocked:
        depends["blocked"] = prepared.blocked
    if prepared.blocked_phash:
        depends["blocked_phash"] = prepared.blocked_phash
    if prepared.known:
        depends["known"] = _digest(prepared)
    first = Declaration("fetch", "fetch", VERSION, depends, ["plan"], by_part=True, is_decided_on=True)
    base = Pass.of(prepared.store, first, [plan.folder]).folder.path
    chain = _chain(prepared.rounds, base)
    for place, (number, round_) in enumerate([(0, None), *chain]):
        newest = place == len(chain)
        declared = replace(first, name="fetch" if newest else f"fetch.{place}", folder="fetch", is_decided_on=newest)
        if round_ is not None:
            tried = {**depends, "round": number, "classes": list(round_.classes)}
            declared = replace(declared, depends=tried, reads=["plan", f"fetch.{place - 1}"])
        yield declared


def declare_known(prepared: Prepared) -> Iterator[Declaration]:
    """Yields the declaration of the URLs that earlier results have, where the recipe names any."""
    if prepared.known:
        yield Declaration(known_urls.NAME, "plan", VERSION, {"known": _digest(prepared)})


def known_works(prepared: Prepared, layout: Layout) -> Iterator[Work]:
    """Yields the works that gather the URLs of earlier results, before those of `works`."""
    if not prepared.known:
        return
    units: list[list[int]] = []
    held = KNOWN_ROWS
    for number, table in enumerate(prepared.known):
        if held + table["rows"] > KNOWN_ROWS:
            units.append([])
            held = 0
        units[-1].append(number)
        held += table["rows"]
    settings: Json = {"tables": list(prepared.known), "units": units, "endpoint": prepared.recipe.storage.endpoint}
    output = {known_urls.NAME: layout.passes[known_urls.NAME]}
    count, booking = prepared.recipe.booking("fetch", for_fetch)
    opener, is_small = "curate.fetch.known_urls:open_", sum(table["rows"] for table in prepared.known) <= SMALL
    gather = f"{known_urls.NAME}-gather"
    none, numbers = Inputs({}, ()), range(len(units))
    gather_work = Work(gather, f"{opener}gather", settings, output, none, numbers, processes=count, booking=booking)
    yield replace(gather_work, is_small=is_small)
    yield Work(known_urls.NAME, f"{opener}count", settings, output, none, (WHOLE,), is_small=True)


def _digest(prepared: Prepared) -> str:
    """A digest of the tables of earlier results, whatever their paths and order."""
    return hashlib.sha256("".join(sorted(table["sha256"] for table in prepared.known)).encode()).hexdigest()


def _chain(rounds: Iterable[Round], base: str) -> list[tuple[int, Round]]:
    """Returns the rounds of a fetch that later passes depend on, with their numbers, oldest first."""
    numbered = enumerate((round_ for round_ in rounds if round_.base == base), start=1)
    return [(number, round_) for number, round_ in numbered if round_.recovered != 0]


def unsettled(prepared: Prepared, layout: Layout) -> Round | None:
    """Returns the newest round if the number of images that it recovered is not recorded yet, else None."""
    chain = _chain(prepared.rounds, next(iter(layout.of("fetch").values())).folder.path)
    return chain[-1][1] if chain and chain[-1][1].recovered is None else None


def settled(prepared: Prepared, layout: Layout, ended: Round) -> Prepared:
    """Counts the images that the newest round recovered, over all of its parts, and records the number."""
    folder = layout.passes["fetch"].folder
    recovered = sum(marker.counts["recovered"] for _, marker in markers(folder, sorted(folder.units())))
    settle(prepared.store, ended, folder.path, recovered)
    return replace(prepared, rounds=recorded(prepared.store))


def works(prepared: Prepared, layout: Layout) -> Iterator[Work]:
    """Yields one work for each round; each part starts after the same part of the round before."""
    recipe, plan = prepared.recipe, layout.passes["plan"].folder
    count, booking = recipe.booking("fetch", for_fetch)
    settings: Json = {
        **recipe.fetch.model_dump(mode="json"),
        "processes": count,
        "blocked": prepared.blocked,
        "blocked_phash": prepared.blocked_phash,
        "endpoint": recipe.storage.endpoint,
        "expects": [f"expected_{kind}" for kind in ("sha256", "md5") if getattr(recipe.source, kind) is not None],
    }
    rounds = list(layout.of("fetch").values())
    for number, pass_ in enumerate(rounds):
        if number:
            opener, more = "retry_round", {"classes": pass_.declared.depends["classes"]}
        elif recipe.source.kind == "samples":
            signed = {shown(path): path for path in recipe.source.paths}
            places = [place["path"] for place in prepared.identity["source"]]
            opener, more = "from_samples", {"places": [signed.get(path, path) for path in places]}
        else:
            opener, more = "worker", {"before": files_before(pass_.folder)}
        before = {"before": rounds[number - 1].folder} if number else {}
        if prepared.known and not number:
            before[known_urls.NAME] = layout.passes[known_urls.NAME].folder
        # A round holds all images of the round before, so a part that a round has is not fetched in earlier rounds.
        later = done(rounds[number + 1].folder, layout.parts) if number + 1 < len(rounds) else set()
        yield Work(
            work_name(number),
            f"curate.fetch.{opener}:open_worker",
            {**settings, **more},
            {"fetch": pass_},
            Inputs({"plan": plan, **before}, layout.parts),
            [part for part in layout.parts if part not in later],
            layout.rows,
            after=(work_name(number - 1),) if number else (),
            processes=count,
            booking=booking,
            total=layout.n_parts,
        )


def work_name(number: int) -> str:
    """Returns the name of the work of a round; 0 is the first fetch."""
    return f"fetch-{number}" if number else "fetch"


def command_again(prepared: Prepared, sample: float | None) -> str:
    """Returns the command that fetches lost images again; empty where images were not downloaded."""
    if prepared.recipe.source.kind != "urls":
        return ""
    return f"curate retry-failed {prepared.store.url}" + (f" --sample {sample:g}" if sample else "")
