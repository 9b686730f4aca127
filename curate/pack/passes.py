"""The pass `pack`: one unit for each shard of the result, then one for the card and the files about all shards."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import PurePath

from curate.errors import BrokenResult
from curate.keys import chosen
from curate.pack.layouts.registry import layouts
from curate.pack.worker import n_shards
from curate.prepare import HUB, Prepared
from curate.runs.booking import for_pack
from curate.runs.healing import check_sizes
from curate.runs.passes import Declaration, Layout
from curate.runs.work import SMALL, Work
from curate.store import WHOLE, Json

VERSION = 5

SMALL_RESULT = 5_000
"""Kept pairs up to which the driver packs in its own process: a second's work of one core. More go to all cores."""


def declare(prepared: Prepared, columns: Sequence[str]) -> Declaration:
    """Declares `pack`: it depends on the decisions, every column, the layouts, and the recipe keys on its card."""
    recipe = prepared.recipe
    versions = {written.name: written.version for written in layouts(recipe.pack.layouts) if written.version > 1}
    depends = {
        **chosen(recipe.pack),
        **({"layout_versions": versions} if versions else {}),
        "source": chosen(recipe.source, only={"kind"}),
        "fetch": chosen(recipe.fetch, without={"allow", "blocklists", "phash_blocklists"}),
        "models": {name: _placeless(chosen(model)) for name, model in recipe.models.items()},
    }
    return Declaration("pack", "pack", VERSION, depends, [*columns, "select"], is_result=True)


def shards(prepared: Prepared, layout: Layout) -> int:
    """The number of shards that the kept pairs fill; the decisions have to be done."""
    return n_shards(layout.passes["select"].folder, prepared.recipe.pack.shard_size)


def work(prepared: Prepared, layout: Layout) -> Work:
    """Returns the work that writes the shards."""
    kept, count = layout.passes["select"].folder.marker().counts["kept"], shards(prepared, layout)
    workers, booking = prepared.recipe.booking("pack", for_pack)
    return Work(
        "pack",
        "curate.pack.worker:open_worker",
        _settings(prepared),
        layout.of("pack"),
        layout.inputs("pack"),
        range(count),
        prepared.recipe.pack.shard_size,
        processes=workers,
        booking=booking,
        is_small=kept <= SMALL_RESULT,
    )


def card_work(prepared: Prepared, layout: Layout) -> Work:
    """Returns the work that writes the card, and what the layouts write once for all shards."""
    recipe = prepared.recipe
    settings: Json = {
        **_settings(prepared),
        "recipe": {
            "source": recipe.source.model_dump(mode="json", include={"kind"}),
            "fetch": recipe.fetch.model_dump(mode="json", exclude=set(recipe.fetch.HOW)),
            "models": {
                name: _placeless(model.model_dump(mode="json", exclude=set(model.HOW)))
                for name, model in recipe.models.items()
            },
        },
        "facts": {name: asdict(facts) for name, facts in prepared.facts.items()},
    }
    return Work(
        "card",
        "curate.pack.card:open_worker",
        settings,
        layout.of("pack"),
        layout.inputs("pack"),
        (WHOLE,),
        is_small=layout.n_rows <= SMALL,
    )


def manifest(prepared: Prepared, layout: Layout, kept: int) -> Json:
    """Returns the manifest's keys about the result: its folder and files, and what `verify` needs to name them.

    Args:
        prepared: the recipe.
        layout: every pass; the result is done.
        kept: the number of kept pairs.

    Raises:
        Damaged: a file is missing, or has another size than its marker says.
        BrokenResult: the shards do not hold as many samples as pairs were kept.
    """
    pack, folder = prepared.recipe.pack, layout.passes["pack"].folder
    written = check_sizes(folder, [*range(shards(prepared, layout)), WHOLE])
    packed = sum(marker.counts["samples"] for marker in written if marker.unit != WHOLE)
    if packed != kept:
        raise BrokenResult(f"{folder.store.path(folder.path)} holds {packed} samples, but {kept} pairs were kept")
    files = [asdict(info) for marker in written for info in marker.files.values()]
    return {
        "pack": folder.path,
        "result": sorted(files, key=lambda info: str(info["name"])),
        "layouts": list(pack.layouts),
        "shard_size": pack.shard_size,
        "samples": kept,
        "embeddings": prepared.columns.embeddings(),
        "captions": prepared.has_captions,
    }


def _settings(prepared: Prepared) -> Json:
    pack = prepared.recipe.pack
    return {"shard_size": pack.shard_size, "layouts": list(pack.layouts), **prepared.columns.to_json()}


def _placeless(model: Json) -> Json:
    """Returns a model's keys with paths cut to their last component: the same files elsewhere are the same model.

    Names on the hub stay whole.
    """
    paths = {key for key in ("name", "pretrained") if model.get(key) and not model[key].startswith(HUB)}
    return {key: PurePath(value).name if key in paths else value for key, value in model.items()}
