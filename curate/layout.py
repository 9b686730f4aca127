"""What each pass of a run depends on, and so where it lies: the graph that `curate.flow` walks.

`prepare` checks everything that can be wrong before anything is written; `lay_out` names every pass folder by
the fingerprint of all that its content depends on. Never part of it: paths, the engine, worker counts.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePath

import pyarrow as pa

from curate import schema
from curate.embed.model.facts import ModelFacts, describe
from curate.embed.model.weights import HUB
from curate.embed.targets import TargetImage
from curate.embed.targets import find as find_targets
from curate.errors import RecipeError
from curate.fetch.pictures import blocklist
from curate.plan import places, samples
from curate.plan import source as lists
from curate.recipe import Recipe
from curate.runs.driver import Pass, check_identity
from curate.runs.retry_rounds import Round, recorded
from curate.select.predicate import check as check_steps
from curate.signals import head, registry
from curate.store import Inputs, Json, Store

VERSIONS = {
    "plan": 1,
    "fetch": 1,
    "pixels": 2,
    "embed": 2,
    "prompts": 3,
    "targets": 2,
    "dedup": 1,
    "select": 2,
    "pack": 2,
    "report": 1,
}
"""Raised when a pass would write something else from the same inputs; scorers carry their own."""

_HOW_NOT_WHAT = {
    "processes",
    "threads",
    "agent",
    "host_connections",
    "host_rate",
    "host_failures",
    "retries",
    "min_speed",
    "part_timeout",
    "waiting_bytes",
    "min_success",
    "min_success_window",
}
"""Keys of `fetch` that change how fast, how patiently or under which name it works, not what it asks for."""

_HOW_EXACTLY = {"precision", "batch_size", "threads", "compile"}
"""Keys of a model that change the last digits of what it gives."""

SET_FOLDERS = ("prompts-", "labels-", "targets-")
"""Folders of directions that signals hold images against; they are of no part."""

_OF_PICTURES = {"image_size", "resize", "only_if_bigger", "format", "quality", "max_bytes", "max_pixels"}
"""Keys of `fetch` that matter to images that are not downloaded."""


@dataclass(frozen=True)
class Prepared:
    """A recipe that was found to hold, with what was learned on the way."""

    recipe: Recipe
    store: Store
    identity: Json
    facts: Mapping[str, ModelFacts]
    blocked: str = ""
    rounds: tuple[Round, ...] = ()
    heads: Mapping[str, Json] = field(default_factory=dict)
    """By name: the digest of the file, and which of its outputs is the column."""
    targets: Mapping[str, Sequence[TargetImage]] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """The models' short names, the first one first."""
        return list(self.recipe.models)


@dataclass(frozen=True)
class Layout:
    """Every pass of a run by its short name, and the parts that it covers."""

    passes: Mapping[str, Pass]
    n_parts: int
    parts: tuple[int, ...]
    missing: tuple[int, ...]
    earlier: tuple[Pass, ...] = ()
    """The fetches before the one in `passes`, in the order of their rounds."""

    @property
    def fetches(self) -> tuple[Pass, ...]:
        """All rounds of fetching, the newest last: the one that the passes after it read."""
        return (*self.earlier, self.passes["fetch"])

    def inputs(self, *names: str) -> Inputs:
        """What a pass may read: the named passes, or all of them."""
        return Inputs({name: self.passes[name].folder for name in names or self.passes}, self.parts)

    @property
    def measured(self) -> list[str]:
        """The passes whose columns `select` decides on."""
        others = (*SET_FOLDERS, "select", "pack", "report")
        return [name for name in self.passes if not name.startswith(others)]


def prepare(recipe: Recipe, *, probe: bool = True) -> Prepared:
    """Checks recipe, sources, models and output; writes nothing but a probe file, and that last.

    Args:
        recipe: what is to be run.
        probe: write, read back and delete that file; without it nothing is written, not even the folder.

    Raises:
        UsageError: in one line, the first thing that is wrong.
    """
    source = recipe.source.model_dump(mode="json")
    endpoint = recipe.storage.endpoint
    of_samples = recipe.source.kind == "samples"
    plan_columns = (samples if of_samples else lists).columns(source, endpoint)
    check_steps([step.model_dump(mode="json") for step in recipe.select], visible_columns(recipe, plan_columns))
    identity = {
        "source": (places if of_samples else lists).listing(recipe.source.paths, endpoint),
        "columns": recipe.source.model_dump(mode="json", exclude=_not_said(recipe)),
        "seed": recipe.seed,
        "part_size": recipe.part_size,
    }
    facts = {
        name: describe(model.name, model.pretrained, endpoint, f"models.{name}")
        for name, model in recipe.models.items()
    }
    heads = {name: _head(recipe, name, facts) for name in recipe.signals.heads}
    targets = {name: find_targets(name, of.images, endpoint) for name, of in recipe.signals.targets.items()}
    blocked = blocklist.read(recipe.fetch.blocklists, endpoint).fingerprint
    store = Store(recipe.output, endpoint)
    with store.accessible():
        check_identity(store, identity)
        _check_free(store)
        rounds = recorded(store)
    if probe:
        store.check_writable()
    return Prepared(recipe, store, identity, facts, blocked, rounds, heads, targets)


def _check_free(store: Store) -> None:
    """Raises RecipeError where the folder holds what is not ours; a run that died while it planned left plans alone.

    Hidden names, such as a desktop's or a probe file of ours, are nobody's.
    """
    if store.exists("run.json"):
        return
    ours = re.compile(r"plan-[0-9a-f]{12}")
    foreign = [
        name
        for name, kind in store.entries().items()
        if not name.startswith(".") and not (kind == "directory" and ours.fullmatch(name))
    ]
    if foreign:
        named = ", ".join(repr(name) for name in foreign[:3]) + (", …" if foreign[3:] else "")
        raise RecipeError(f"output: {store.url} holds other things ({named}) and no run; name a new or an empty folder")


def _head(recipe: Recipe, name: str, facts: Mapping[str, ModelFacts]) -> Json:
    asked = recipe.signals.heads[name]
    model = asked.model or next(iter(recipe.models))
    found = head.read(asked.path, recipe.storage.endpoint)
    index = head.check(name, found, asked.model_dump(), model, facts[model].embed_dim)
    return {"sha256": found.sha256, "index": index}


def visible_columns(recipe: Recipe, plan_columns: pa.Schema) -> dict[str, pa.DataType]:
    """The columns that `where`, `keep_top.of` and `prefer` may name, with their types."""
    tables = (plan_columns, schema.IMAGES, schema.PIXELS)
    found = {field.name: field.type for table in tables for field in table}
    found |= {name: pa.string() for name in ("pair_id", "image_id")}
    mirrored = [name for name, model in recipe.models.items() if model.mirror]
    for column, models in ((schema.SIMILARITY, list(recipe.models)), (schema.MIRRORED, mirrored)):
        found |= {f"{column}_{model}": pa.float32() for model in models}
        if next(iter(recipe.models)) in models:
            found[column] = pa.float32()
    for scorer in scorers(recipe):
        found |= registry.columns(scorer, {})
    return found


def scorers(recipe: Recipe) -> dict[str, Json]:
    """Every scorer of a recipe with the folders that it reads: `embed` and `prompts`."""
    signals, first = recipe.signals, next(iter(recipe.models))
    found: dict[str, Json] = {"caption": {}}
    for name, concept in signals.concepts.items():
        found[f"concept_{name}"] = {"prompts": f"prompts-{name}", "embed": f"embed-{concept.model or first}"}
    for name, classes in signals.classes.items():
        found[f"class_{name}"] = {"prompts": f"labels-{name}", "embed": f"embed-{classes.model or first}"}
    for name, head_ in signals.heads.items():
        found[f"head_{name}"] = {"embed": f"embed-{head_.model or first}"}
    for name, target in signals.targets.items():
        found[f"target_{name}"] = {"prompts": f"targets-{name}", "embed": f"embed-{target.model or first}"}
    return found


def prompt_sets(recipe: Recipe) -> dict[str, Json]:
    """By folder: the model, the names and the prompts of each zero-shot signal (`embed.prompts.PromptSet`)."""
    signals, first = recipe.signals, next(iter(recipe.models))
    found: dict[str, Json] = {}
    for name, concept in signals.concepts.items():
        ensembles = [[prompt] if isinstance(prompt, str) else prompt for prompt in concept.prompts]
        names = [" / ".join(ensemble) for ensemble in ensembles]
        found[f"prompts-{name}"] = {"model": concept.model or first, "names": names, "prompts": ensembles}
    for name, classes in signals.classes.items():
        labels, prompts = list(classes.prompts), list(classes.prompts.values())
        found[f"labels-{name}"] = {"model": classes.model or first, "names": labels, "prompts": prompts}
    return found


def target_sets(prepared: Prepared) -> dict[str, Json]:
    """By folder: the model and the images of each set of targets."""
    models = {name: target.model or prepared.models[0] for name, target in prepared.recipe.signals.targets.items()}
    return {
        f"targets-{name}": {"model": models[name], "images": [asdict(image) for image in images]}
        for name, images in prepared.targets.items()
    }


def head_params(prepared: Prepared) -> dict[str, Json]:
    """By scorer: what a head's column depends on besides its embeddings."""
    heads = prepared.recipe.signals.heads
    return {
        f"head_{name}": {**heads[name].model_dump(mode="json", include={"activation", "output"}), **found}
        for name, found in prepared.heads.items()
    }


def lay_out(
    prepared: Prepared,
    n_parts: int,
    *,
    sample: float | None = None,
    missing: Sequence[int] = (),
    truth: str | None = None,
) -> Layout:
    """Every pass with its folder.

    Args:
        prepared: the recipe, checked.
        n_parts: parts of the plan; passes that work part by part do not depend on it.
        sample: the share of the parts that the global passes cover, or None for all.
        missing: parts that the global passes go without.
        truth: the digest of a demo's truth table.
    """
    recipe, store, models = prepared.recipe, prepared.store, prepared.models
    first = models[0]
    passes: dict[str, Pass] = {}

    def add(name: str, version: int, params: Json, upstream: Iterable[str]) -> None:
        passes[name] = Pass.of(store, name, version, params, [passes[other].folder for other in upstream])

    add("plan", VERSIONS["plan"], prepared.identity, [])
    of_samples = recipe.source.kind == "samples"
    asked_for = recipe.fetch.model_dump(
        mode="json",
        include=_OF_PICTURES if of_samples else None,
        exclude=None if of_samples else {*_HOW_NOT_WHAT, "blocklists"},
    )
    asked_for["blocked"] = prepared.blocked
    add("fetch", VERSIONS["fetch"], asked_for, ["plan"])
    base, earlier = passes["fetch"].folder.path, []
    for round_ in prepared.rounds:
        if round_.base == base:
            earlier.append(passes["fetch"])
            tried = {**asked_for, "round": len(earlier), "classes": list(round_.classes)}
            add("fetch", VERSIONS["fetch"], tried, ["plan", "fetch"])
    add("pixels", VERSIONS["pixels"], {}, ["fetch"])
    for model in models:
        how = recipe.models[model].model_dump(mode="json", include={*_HOW_EXACTLY, "mirror"})
        how["decode"] = recipe.embed.decode
        what = asdict(prepared.facts[model])
        add(f"embed-{model}", VERSIONS["embed"], {**how, "model": what}, ["plan", "fetch"])
    for folder, asked in prompt_sets(recipe).items():
        what = {**asked, "model": asdict(prepared.facts[asked["model"]]), **_how_prompts(recipe, asked["model"])}
        add(folder, VERSIONS["prompts"], what, [])
    for folder, asked in target_sets(prepared).items():
        digests = [image["sha256"] for image in asked["images"]]
        what = {"images": digests, "model": asdict(prepared.facts[asked["model"]])}
        add(folder, VERSIONS["targets"], {**what, **_how_prompts(recipe, asked["model"])}, [])
    own = head_params(prepared)
    for scorer, needs in scorers(recipe).items():
        add(f"signals-{scorer}", registry.version(scorer), own.get(scorer, {}), ["plan", *needs.values()])

    covered = n_parts if sample is None else max(1, math.ceil(n_parts * sample))
    scope = {"parts": covered, "missing": list(missing)}
    if any(step.duplicates and step.duplicates.by == "image_embedding" for step in recipe.select):
        add("dedup", VERSIONS["dedup"], {"floor": recipe.dedup.floor, **scope}, ["fetch", f"embed-{first}"])
    steps = [step.model_dump(mode="json") for step in recipe.select]
    add(
        "select",
        VERSIONS["select"],
        {"steps": steps, "models": models, **scope},
        Layout(passes, n_parts, (), ()).measured,
    )
    add("pack", VERSIONS["pack"], {"shard_size": recipe.pack.shard_size, **card_settings(prepared)}, ["select"])
    add("report", VERSIONS["report"], {"truth": truth}, ["pack"])
    parts = tuple(part for part in range(covered) if part not in set(missing))
    return Layout(passes, n_parts, parts, tuple(missing), tuple(earlier))


def _how_prompts(recipe: Recipe, model: str) -> Json:
    """Settings of a model that change the last digits of prompts and targets."""
    return recipe.models[model].model_dump(mode="json", include=_HOW_EXACTLY)


def _not_said(recipe: Recipe) -> set[str]:
    """Keys of `source` that are no part of what a run is: places, and the kind of all but samples."""
    return {"paths"} if recipe.source.kind == "samples" else {"paths", "kind"}


def card_settings(prepared: Prepared) -> Json:
    """What the result says of its own making: the recipe without places and machine sizes."""
    recipe = prepared.recipe.model_dump(
        mode="json",
        exclude={
            "output": True,
            "storage": True,
            "limits": True,
            "embed": True,
            "source": _not_said(prepared.recipe),
            "fetch": {*_HOW_NOT_WHAT, "allow", "blocklists"},
        },
    )
    for model in recipe["models"].values():
        # Of a path only its last word: the same files elsewhere are the same model. A hub's name is no place.
        places = (key for key in ("name", "pretrained") if model[key] and not model[key].startswith(HUB))
        model |= {key: PurePath(model[key]).name for key in places}
    for of in recipe["signals"]["heads"].values():
        of["path"] = PurePath(of["path"]).name
    for of in recipe["signals"]["targets"].values():
        of["images"] = [PurePath(path).name for path in of["images"]]
    return {"recipe": recipe, "facts": {name: asdict(facts) for name, facts in prepared.facts.items()}}
