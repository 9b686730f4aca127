"""The pass `fetch`: a part's images, by download or from samples; every further round is a pass of its own."""

from collections.abc import Iterator
from dataclasses import replace

from curate.keys import chosen
from curate.prepare import Prepared
from curate.runs.passes import Declaration, Layout, Pass
from curate.runs.work import Work
from curate.store import Inputs, Json

VERSION = 1

_OF_PICTURES = {"image_size", "resize", "only_if_bigger", "format", "quality", "max_bytes", "max_pixels"}
"""Keys of `fetch` that matter to images that are not downloaded."""


def declare(prepared: Prepared, plan: Pass) -> Iterator[Declaration]:
    """The rounds of fetching, oldest first; the newest, which all later passes read, is called `fetch`.

    A round belongs to the fetch that its chain began with, so only the rounds of this very fetch count.
    """
    recipe = prepared.recipe
    if recipe.source.kind == "samples":
        depends = chosen(recipe.fetch, only=_OF_PICTURES)
    else:
        depends = chosen(recipe.fetch, without={"blocklists"})
    if prepared.blocked:
        depends["blocked"] = prepared.blocked
    first = Declaration("fetch", "fetch", VERSION, depends, ["plan"], by_part=True, is_decided_on=True)
    base = Pass.of(prepared.store, first, [plan.folder]).folder.path
    rounds = [round_ for round_ in prepared.rounds if round_.base == base]
    for number, round_ in enumerate([None, *rounds]):
        newest = number == len(rounds)
        declared = replace(first, name="fetch" if newest else f"fetch.{number}", folder="fetch", is_decided_on=newest)
        if round_ is not None:
            tried = {**depends, "round": number, "classes": list(round_.classes)}
            declared = replace(declared, depends=tried, reads=["plan", f"fetch.{number - 1}"])
        yield declared


def works(prepared: Prepared, layout: Layout) -> Iterator[Work]:
    """One work for each round, each part of it after the same part of the round before."""
    recipe, plan = prepared.recipe, layout.passes["plan"].folder
    settings: Json = {
        **recipe.fetch.model_dump(mode="json"),
        "blocked": prepared.blocked,
        "endpoint": recipe.storage.endpoint,
    }
    rounds = list(layout.of("fetch").values())
    for number, pass_ in enumerate(rounds):
        if number:
            opener, more = "retry_round", {"classes": pass_.declared.depends["classes"]}
        elif recipe.source.kind == "samples":
            opener, more = "from_samples", {"places": [place["path"] for place in prepared.identity["source"]]}
        else:
            opener, more = "worker", {}
        before = {"before": rounds[number - 1].folder} if number else {}
        # A round holds all that the ones before it had: of those only what it still lacks is needed.
        has = rounds[number + 1].folder.units() if number + 1 < len(rounds) else set()
        yield Work(
            work_name(number),
            f"curate.fetch.{opener}:open_worker",
            {**settings, **more},
            {"fetch": pass_},
            Inputs({"plan": plan, **before}, layout.parts),
            [part for part in layout.parts if part not in has],
            layout.rows,
            after=(work_name(number - 1),) if number else (),
            processes=recipe.fetch.processes,
        )


def work_name(number: int) -> str:
    """How the work of a round is called; 0 is the first fetch."""
    return f"fetch-{number}" if number else "fetch"
