"""Checks a recipe, its sources, models and output before anything is written, and keeps what was learned on the way."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import pyarrow as pa
from pydantic import ValidationError

from curate import schema
from curate.embed.model.facts import ModelFacts, describe
from curate.embed.model.weights import HUB
from curate.embed.targets import TargetImage
from curate.embed.targets import find as find_targets
from curate.errors import RecipeError
from curate.fetch.pictures import blocklist
from curate.keys import chosen
from curate.plan import places, samples
from curate.plan import source as lists
from curate.recipe import Recipe, Source
from curate.runs.identity import check_identity
from curate.runs.retry_rounds import Round, recorded
from curate.select.predicate import check as check_steps
from curate.signals import head, registry
from curate.store import Json, Store

__all__ = ["HUB", "Prepared", "prepare"]


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
        "columns": chosen(recipe.source, without={"paths"}),
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
        check_identity(store, identity, as_now)
        _check_free(store)
        rounds = recorded(store)
    if probe:
        store.check_writable()
    return Prepared(recipe, store, identity, facts, blocked, rounds, heads, targets)


def as_now(identity: Json) -> Json:
    """A stored identity as this release writes it: without the keys of `source` that are at their defaults."""
    try:
        source = Source.model_validate({**identity["columns"], "paths": ["-"]})
    except (KeyError, TypeError, ValidationError):
        # Not one of ours, or of a later release: it differs, and is told so.
        return identity
    return {**identity, "columns": chosen(source, without={"paths"})}


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


def prompt_sets(prepared: Prepared) -> dict[str, Json]:
    """By folder: the model, the names and the prompts of each zero-shot signal (`embed.prompts.PromptSet`)."""
    signals, first = prepared.recipe.signals, prepared.models[0]
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


def column_tables(prepared: Prepared) -> Json:
    """Which embedding and signal tables there are, with the signals' columns.

    By name: in which order a recipe has its signals is no part of a fingerprint, and must not decide on bytes.
    """
    names = dict(sorted(scorers(prepared.recipe).items()))
    return {
        "models": prepared.models,
        "signals": {f"signals-{name}": list(registry.columns(name, params)) for name, params in names.items()},
    }
