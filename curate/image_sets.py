"""Sets of images (`against.<set>.images`): their images pass through plan, fetch and embed as those of a run do.

So a picture of a set is decoded, stored, hashed and embedded by the code, the settings and the model that the run's own
pictures are. The folders of these passes are `against/<set>/plan-…`, and so on, in the run's folder; only the columns
that a kind of duplicate compares are computed. Blocklists and opt-outs do not apply: nothing of a set enters a result.
"""

from collections.abc import Iterator
from dataclasses import replace

from curate.against import set_pass
from curate.embed import passes as embed
from curate.fetch import passes as fetch
from curate.plan import passes as plan
from curate.prepare import Prepared, compared_with, read_by
from curate.recipe import Source
from curate.runs.passes import Declaration, Layout, Pass
from curate.runs.work import Work


def layouts(prepared: Prepared) -> dict[str, Layout]:
    """Returns the passes of each set of images, by its name; a set that is not planned yet has no parts."""
    return {name: _layout(prepared, name) for name in prepared.image_sets}


def are_planned(prepared: Prepared) -> bool:
    """Whether the images of all sets are listed."""
    return all(layout.passes["plan"].folder.is_done() for layout in layouts(prepared).values())


def plans(prepared: Prepared) -> Iterator[Work]:
    """Yields the works that list the images of sets; each is done before the next is asked for."""
    for name, layout in layouts(prepared).items():
        for work in plan.works(_as_run(prepared, name), layout):
            yield replace(work, name=f"{name}-{work.name}")


def works(prepared: Prepared, main: Layout) -> Iterator[list[Work]]:
    """Yields, for each set whose items are not gathered yet, the works that read, hash and embed its images.

    Args:
        prepared: the recipe, checked.
        main: the passes of the run, with those of its sets.
    """
    for name, layout in layouts(prepared).items():
        gathered = [set_pass(name, one.kind.full_name) for one in compared_with(prepared.recipe) if one.set == name]
        if all(main.passes[one].folder.is_done() for one in gathered):
            continue
        run = _as_run(prepared, name)
        (read,) = fetch.works(run, layout)
        chain = [read]
        if layout.of("embed"):
            chain.append(embed.work(run, layout, after=read.name))
        yield [
            replace(work, name=f"{name}-{work.name}", after=tuple(f"{name}-{one}" for one in work.after), label="")
            for work in chain
        ]


def _as_run(prepared: Prepared, name: str) -> Prepared:
    """Returns the recipe of a run whose source are the images of a set."""
    recipe = prepared.recipe
    caption = "caption" if prepared.has_captions else None
    source = Source(kind="samples", paths=recipe.against[name].images, url="", caption=caption, keep_columns=[])
    without: dict[str, object] = {"blocklists": [], "phash_blocklists": [], "known_results": [], "c2pa": False}
    unlisted = recipe.fetch.model_copy(update=without)
    return replace(
        prepared,
        recipe=recipe.model_copy(update={"source": source, "fetch": unlisted}),
        identity=prepared.image_sets[name],
        rounds=(),
        known=(),
        prompts={},
        targets={},
        blocked="",
        blocked_phash="",
    )


def _layout(prepared: Prepared, name: str) -> Layout:
    run, passes = _as_run(prepared, name), dict[str, Pass]()
    wanted = {"plan", "fetch", *read_by(prepared.recipe, name)}

    def add(declared: Declaration) -> None:
        if declared.name in wanted:
            here = replace(declared, folder=f"against/{name}/{declared.folder or declared.name}")
            reads = [passes[one].folder for one in declared.reads]
            passes[declared.name] = Pass.of(prepared.store, here, reads, prepared.healed)

    add(plan.declare(run))
    for declared in fetch.declare(run, passes["plan"]):
        add(declared)
    for declared in embed.declare(run):
        add(declared)
    folder = passes["plan"].folder
    counts = folder.marker().counts if folder.is_done() else {"parts": 0, "rows": 0}
    parts = counts["parts"]
    return Layout(passes, parts, tuple(range(parts)), rows=counts["rows"] / max(1, parts))
