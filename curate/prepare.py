"""Checks a recipe, its sources, models and output before anything is written; returns the results of the checks."""

import base64
import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from curate import schema
from curate.against import Comparison, compared
from curate.columns import PairColumns
from curate.columns import describe as describe_columns
from curate.dedup.against import files as set_files
from curate.dedup.against.files import ValueFile
from curate.dedup.against.results import Result, ResultTable
from curate.duplicates import DuplicateKind, NearKind
from curate.embed.model.facts import ModelFacts
from curate.embed.model.names import HUB
from curate.embed.pixels.contract import PixelScorer
from curate.embed.pixels.registry import scorers as pixel_scorers
from curate.embed.target_files import find as find_targets
from curate.errors import RecipeError, SourceError
from curate.fetch.pictures import blocklist, phash_blocklist
from curate.keys import chosen
from curate.plan import places, samples
from curate.plan import source as lists
from curate.plan.paths import last_word
from curate.recipe import Fetch, Model, Recipe, Source
from curate.remembered import NAME, Remembered
from curate.runs import healing
from curate.runs.identity import check_identity, placeless
from curate.runs.one_driver import FOLDER as DRIVERS
from curate.runs.retry_rounds import Round, recorded
from curate.select.steps.contract import Step
from curate.select.steps.registry import check as check_steps
from curate.select.steps.registry import read as read_steps
from curate.select.steps.registry import versions, wanted
from curate.signals.contract import Images, ModelShape, Prompts, Scorer
from curate.signals.registry import scorers
from curate.store import Folder, Json, Store

__all__ = ["HUB", "Prepared", "prepare"]

SLOW_CHECK = 3.0
"""Seconds after which the user is told which model is being checked: weights may have to be downloaded first."""

_NO_CAPTIONS = "the source has no captions (source.caption: null, or lists of URLs alone)"


def in_silence(_line: str) -> None:
    """Shows nothing."""


@dataclass(frozen=True)
class Prepared:
    """A checked recipe, with the results of the checks."""

    recipe: Recipe
    store: Store
    identity: Json
    facts: Mapping[str, ModelFacts]
    blocked: str = ""
    rounds: tuple[Round, ...] = ()
    scorers: Sequence[Scorer] = ()
    """The scorers of all signals, with the results of `Signal.learn`."""
    prompts: Mapping[str, Json] = field(default_factory=dict)
    """Texts that signals compare images with, by the texts' folder: `model`, `where`, `names`, `prompts`."""
    targets: Mapping[str, Json] = field(default_factory=dict)
    """Images that signals compare images with, likewise: `model`, `where`, `images` (each with `path` and `sha256`)."""
    columns: PairColumns = field(default_factory=PairColumns)
    pixels: Sequence[PixelScorer] = ()
    """The pixel scorers, with the results of their `learn`."""
    caution: str = ""
    """A guarantee that the output's store does not give, in one line (`Store.check_writable`); else empty."""
    remembered: Remembered = field(default_factory=Remembered)
    """What the checks found out about files outside the run, for its next command."""
    has_captions: bool = True
    """Whether the source has captions; if not, images are curated alone."""
    healed: Mapping[str, int] = field(default_factory=dict)
    """How often units of a folder came out different when they were done again (`curate.runs.healing.rounds`)."""
    blocked_phash: str = ""
    """The fingerprint of the blocklists of perceptual hashes, as `blocked` is that of digests."""
    sets: Mapping[str, Mapping[str, list[Json]]] = field(default_factory=dict)
    """The files of each set that steps compare with, by set and kind of duplicate (`dedup.against.files.ValueFile`)."""
    known: Sequence[Json] = ()
    """The tables of earlier results whose URLs are not fetched again: `path`, `sha256` and `rows` of each."""
    image_sets: Mapping[str, Json] = field(default_factory=dict)
    """By set of images, the identity of a run whose source they are (`curate.image_sets`)."""

    @property
    def models(self) -> list[str]:
        """The models' short names, the first one first."""
        return list(self.recipe.models)


def prepare(recipe: Recipe, *, probe: bool = True, tell: Callable[[str], None] = in_silence) -> Prepared:
    """Checks recipe, sources, models and output; the only file that it writes is a probe file in the output, last.

    Args:
        recipe: the recipe to run.
        probe: write, read back and delete the probe file; if False, nothing is written, not even the folder.
        tell: called with a line, in another thread, while a check takes more than SLOW_CHECK seconds.

    Raises:
        UsageError: the first fault found, in one line.
    """
    recipe = recipe.with_absolute_paths()
    endpoint = recipe.storage.endpoint
    store = Store(recipe.output, endpoint)
    with store.accessible():
        remembered = Remembered.of(store)
    listing = _listing(recipe, remembered)
    plan, has_captions = _looked(recipe, listing, remembered)
    known = columns_of(recipe, plan)
    _check_texts(recipe, known)
    read = _check_steps(recipe, known, remembered)
    columns = columns_of(recipe, plan, read) if has_captions else _without_captions(recipe, plan, known, read)
    identity = {
        "source": listing,
        "columns": chosen(recipe.source, without={"paths"}),
        "seed": recipe.seed,
        "part_size": recipe.part_size,
    }
    with store.accessible():
        check_identity(store, identity, as_now)
        _check_free(store, identity)
        rounds, healed = recorded(store), healing.rounds(store)
    requested = list(_scorers(recipe, has_captions=has_captions))
    prompts, targets = _directions(requested, remembered)
    pixels = [
        replace(scorer, learned=scorer.kind.learn(scorer.where, scorer.keys, endpoint))
        for scorer in pixel_scorers(recipe.pixels, read)
    ]
    blocked, blocked_phash = _blocked(recipe.fetch, remembered)
    # Last of the checks that read, as the longest.
    facts = {name: _facts(name, model, remembered, tell) for name, model in recipe.models.items()}
    learned = [_learned(scorer, facts, endpoint) for scorer in requested]
    sets = _sets(recipe, facts, remembered)
    caution = store.check_writable() if probe else ""
    return Prepared(
        recipe,
        store,
        identity,
        facts,
        blocked,
        rounds,
        learned,
        prompts,
        targets,
        columns,
        pixels,
        caution,
        remembered,
        has_captions,
        healed,
        blocked_phash,
        sets,
        _known(recipe),
        _image_sets(recipe),
    )


def _blocked(fetch: Fetch, remembered: Remembered) -> tuple[str, str]:
    """Returns the fingerprints of the blocklists of digests and of perceptual hashes; lists are read once."""
    digests, hashes, within = fetch.blocklists, fetch.phash_blocklists, fetch.phash_within
    endpoint = remembered.endpoint
    blocked = remembered.get("blocklists", digests, lambda: (blocklist.read(digests, endpoint).fingerprint, digests))
    blocked_phash = remembered.get(
        "phash_blocklists",
        {"paths": hashes, "within": within},
        lambda: (phash_blocklist.read(hashes, within, endpoint).fingerprint, hashes),
    )
    return str(blocked), str(blocked_phash)


def _sets(recipe: Recipe, facts: Mapping[str, ModelFacts], remembered: Remembered) -> dict[str, dict[str, list[Json]]]:
    """Returns the files of the sets that the steps compare with, by set and kind of duplicate.

    Raises:
        RecipeError: a file cannot be read, or its values are not those of the kind or the model.
    """
    found: dict[str, dict[str, list[Json]]] = {}
    results: dict[str, Result] = {}
    for one in compared_with(recipe):
        keys, kind, where = recipe.against[one.set], one.kind, f"against.{one.set}.{one.kind.name}"
        if keys.images:
            continue
        assert kind.stored is not None
        model = _model_of(recipe, kind)
        files: Sequence[ValueFile | ResultTable]
        if keys.result is None:
            files = set_files.find(where, getattr(keys, kind.name), kind.stored, recipe.storage.endpoint, remembered)
        else:
            where = f"against.{one.set}.result"
            if one.set not in results:
                results[one.set] = Result.of(where, keys.result, recipe.storage.endpoint)
            weights = facts[model].weights_sha256 if model else None
            files = results[one.set].tables(where, kind.stored, weights, remembered)
        if model and files[0].width != facts[model].embed_dim:
            raise RecipeError(
                f"{where}: {files[0].path} has vectors of {files[0].width} values, but the embeddings of the model "
                f"{model!r} have {facts[model].embed_dim}; embed the set with that model"
            )
        found.setdefault(one.set, {})[kind.full_name] = [asdict(file) for file in files]
    return found


def _known(recipe: Recipe) -> list[Json]:
    """Returns the tables of the results in `fetch.known_results`. Raises RecipeError where one cannot be read."""
    where, endpoint = "fetch.known_results", recipe.storage.endpoint
    results = [Result.of(where, path, endpoint) for path in recipe.fetch.known_results]
    return [table for result in results for table in result.urls()]


def _image_sets(recipe: Recipe) -> dict[str, Json]:
    """Returns for each set of images the identity of a run whose source they are.

    Raises:
        RecipeError: a path names no images, or cannot be read.
    """
    found: dict[str, Json] = {}
    for name, keys in recipe.against.items():
        if keys.images:
            try:
                listing = places.listing(keys.images, recipe.storage.endpoint)
            except SourceError as error:
                raise RecipeError(f"against.{name}.images: {error}") from error
            found[name] = {"source": listing, "columns": {}, "seed": recipe.seed, "part_size": recipe.part_size}
    return found


def read_by(recipe: Recipe, name: str) -> set[str]:
    """Returns the short names of the passes whose values are compared with a set."""
    kinds = [one.kind for one in compared_with(recipe) if one.set == name]
    return {read for kind in kinds if isinstance(kind, NearKind) for read in kind.reads(list(recipe.models))}


def _model_of(recipe: Recipe, kind: DuplicateKind) -> str:
    """The short name of the model whose embeddings a kind of duplicate compares; '' where it compares none."""
    read = kind.reads(list(recipe.models)) if isinstance(kind, NearKind) else ()
    return next((name for name in recipe.models if f"embed-{name}" in read), "")


def _listing(recipe: Recipe, remembered: Remembered) -> list[Json]:
    """Returns the source's files as the run's identity holds them."""
    paths, endpoint = recipe.source.paths, recipe.storage.endpoint
    if recipe.source.kind == "samples":
        return places.listing(paths, endpoint)
    return lists.listing(paths, endpoint, remembered)


def _looked(recipe: Recipe, listing: Sequence[Json], remembered: Remembered) -> tuple[pa.Schema, bool]:
    """Returns the plan's columns, and whether the source has captions."""
    source, endpoint = recipe.source.model_dump(mode="json"), recipe.storage.endpoint
    stored = recipe.as_stored().source.model_dump(mode="json")

    def look() -> tuple[Json, Sequence[str]]:
        looked = (samples if recipe.source.kind == "samples" else lists).look(source, endpoint)
        columns = base64.b64encode(looked.plan.serialize().to_pybytes()).decode()
        return {"columns": columns, "has_captions": looked.caption is not None}, ()

    found = remembered.get("source", {"source": stored, "listing": listing}, look)
    columns = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(found["columns"])))
    return columns, bool(found["has_captions"])


def _check_texts(recipe: Recipe, columns: PairColumns) -> None:
    """Raises RecipeError where a step reads the scores of a model that has no text tower."""
    scores = {
        f"{stored}_{name}": name
        for name, model in recipe.models.items()
        for stored in (schema.SIMILARITY, schema.MIRRORED)
        if not model.has_text
    }
    known = [*columns.types(), *scores]
    for step in steps_of(recipe) if scores else ():
        for column in step.kind.columns(step, known):
            if (model := scores.get(column)) and column not in columns.types():
                raise step.wrong(f"there is no {column}, as the model {model!r} has no text tower (torchscript)")


def _check_steps(recipe: Recipe, columns: PairColumns, remembered: Remembered) -> list[str]:
    """Returns the columns that the steps read; the same steps are checked once.

    Raises:
        RecipeError: a step does not fit the columns.
    """
    steps, types = steps_of(recipe), columns.types()

    def find() -> tuple[list[str], Sequence[str]]:
        check_steps(steps, types)
        return wanted(steps, list(types)), ()

    asked = {
        "steps": [step.model_dump(mode="json") for step in recipe.select],
        "kinds": versions(steps),
        "columns": {name: str(kind) for name, kind in types.items()},
    }
    read: list[str] = remembered.get("steps", asked, find)
    return read


def _facts(name: str, model: Model, remembered: Remembered, tell: Callable[[str], None]) -> ModelFacts:
    """Returns a model's facts; open_clip is imported only where they are not remembered."""

    def find() -> tuple[Json, Sequence[str]]:
        where = f"models.{name}"
        if model.torchscript:
            from curate.embed.model import torchscript

            with _said_where_slow(f"{where}: checking {model.name}", tell):
                image = model.torchscript.model_dump(mode="json")
                return asdict(torchscript.facts_of(model.name, image, remembered.endpoint, where)), (model.name,)
        from curate.embed.model.describe import facts_of
        from curate.embed.model.weights import find

        with _said_where_slow(f"{where}: checking {model.name}", tell):
            origin = find(model.name, model.pretrained, remembered.endpoint, where)
            return asdict(facts_of(origin)), origin.sources

    asked: Json = {"name": model.name, "pretrained": model.pretrained, "open_clip": metadata.version("open_clip_torch")}
    if model.torchscript:
        asked |= {"torchscript": model.torchscript.model_dump(mode="json"), "torch": metadata.version("torch")}
    return ModelFacts.from_json(remembered.get("model", asked, find))


@contextlib.contextmanager
def _said_where_slow(line: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Prints a line once the block has taken SLOW_CHECK seconds; a wrong name is found before, and is one line."""
    timer = threading.Timer(SLOW_CHECK, tell, [line])
    timer.name, timer.daemon = "slow check", True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        # Where it is printing already, its line comes before what follows.
        timer.join()


def as_now(identity: Json) -> Json:
    """Returns a stored identity in the form of this release.

    Keys of `source` that are at their defaults are left out, and files have names.
    """
    try:
        source = Source.model_validate({**identity["columns"], "paths": ["-"]})
        paths = [file["path"] for file in identity["source"]]
    except (KeyError, TypeError, ValidationError):
        # Written by another program or a later release: left as it is, so that it compares as different.
        return identity
    names = places.names(paths) if source.kind == "samples" else [last_word(path) for path in paths]
    files = [{"name": name, **file} for name, file in zip(names, identity["source"], strict=True)]
    return {**identity, "source": files, "columns": chosen(source, without={"paths"})}


def _is_plan_of(folder: Folder, identity: Json) -> bool:
    """Whether a folder holds the finished plan of a source."""
    return folder.name == "plan" and folder.is_done() and folder.described()["params"] == placeless(identity)


def _check_free(store: Store, identity: Json) -> None:
    """Raises RecipeError where the folder is neither empty nor that of a run.

    Where run.json was lost, a finished plan of the same source shows that the folder is this run's; the run writes the
    file again.

    A run that died while it planned left only `plan-…` folders, which are accepted, as are `remembered.json` and
    `drivers`. Hidden names, such as files of a desktop or our own probe file, are ignored.
    """
    if store.exists("run.json"):
        return
    ours = re.compile(r"plan-[0-9a-f]{12}")
    foreign = [
        name
        for name, kind in store.entries().items()
        if not name.startswith(".")
        and name not in (NAME, DRIVERS)
        and not (kind == "directory" and ours.fullmatch(name))
    ]
    if foreign and not any(_is_plan_of(folder, identity) for folder in Folder.all_in(store)):
        named = ", ".join(repr(name) for name in foreign[:3]) + (", …" if foreign[3:] else "")
        raise RecipeError(
            f"output: {store.url} is not empty and is not a Curate run (found: {named}); name a new or an empty folder"
        )


def _learned(scorer: Scorer, facts: Mapping[str, ModelFacts], endpoint: str | None) -> Scorer:
    """Returns the scorer with the result of `Signal.learn`, which runs before the run."""
    if scorer.keys is None:
        return scorer
    shape = ModelShape(scorer.model or "", facts[scorer.model].embed_dim if scorer.model else 0)
    return replace(scorer, learned=scorer.kind.learn(scorer.where, scorer.keys, shape, endpoint))


def _directions(requested: Sequence[Scorer], remembered: Remembered) -> tuple[dict[str, Json], dict[str, Json]]:
    """Returns the prompts, and the target images with their digests, that signals compare images with, by folder."""
    prompts: dict[str, Json] = {}
    targets: dict[str, Json] = {}
    for scorer in requested:
        folder, against = str(scorer.directions_folder), scorer.directions
        of = {"model": scorer.model, "where": scorer.where}
        if isinstance(against, Prompts):
            texts = [list(ensemble) for ensemble in against.prompts]
            prompts[folder] = {**of, "names": list(against.names), "prompts": texts}
        elif isinstance(against, Images):
            images = find_targets(scorer.where, against.paths, remembered.endpoint, remembered)
            targets[folder] = {**of, "images": [asdict(image) for image in images]}
    return prompts, targets


def _scorers(recipe: Recipe, *, has_captions: bool) -> Iterator[Scorer]:
    """Returns the recipe's scorers; where the source has no captions, those that read none.

    Raises:
        RecipeError: the recipe asks for a signal that reads captions, and there are none.
    """
    for scorer in scorers(recipe.signals, next(iter(recipe.models))):
        if has_captions or not scorer.kind.reads_captions:
            yield scorer
        elif scorer.keys is not None:
            raise RecipeError(f"{scorer.where} reads captions, and {_NO_CAPTIONS}")


def _without_captions(recipe: Recipe, plan: pa.Schema, with_captions: PairColumns, read: Sequence[str]) -> PairColumns:
    """Returns the columns of a run whose source has no captions; `read` as in `columns_of`.

    Raises:
        RecipeError: the recipe asks for something that is computed from captions.
    """
    mirrored = next((name for name, model in recipe.models.items() if model.mirror), None)
    if mirrored:
        raise RecipeError(f"models.{mirrored}.mirror scores captions, and {_NO_CAPTIONS}")
    columns = columns_of(recipe, plan, read, has_captions=False)
    known = list(with_captions.types())
    for step in steps_of(recipe):
        for name in step.kind.columns(step, known):
            if name not in columns.types():
                preferred = "; it is the default of `prefer`: name another column, such as width"
                hint = preferred if name == schema.SIMILARITY else ""
                raise step.wrong(f"{name} is computed from captions, and {_NO_CAPTIONS}{hint}")
    return columns


def columns_of(
    recipe: Recipe, plan: pa.Schema, read: Sequence[str] | None = None, *, has_captions: bool = True
) -> PairColumns:
    """Returns the columns that every pair of a run of the recipe has.

    `read` are the columns that the steps read: pixel scorers without keys are computed only for them. None: as if the
    steps read all that there are.

    Scorers are sorted by name: no fingerprint covers the order of signals in a recipe, so the order must not change
    bytes.
    """
    mirrored = {name: model.mirror for name, model in recipe.models.items()}
    without_text = [name for name, model in recipe.models.items() if not model.has_text]
    requested = sorted(_scorers(recipe, has_captions=has_captions), key=lambda scorer: scorer.name)
    pixels = {scorer.name: scorer.columns for scorer in pixel_scorers(recipe.pixels, read)}
    signals = {scorer.name: scorer.columns for scorer in requested}
    by_scorer = dict(sorted(pixels.items()))
    return describe_columns(plan, mirrored, signals, by_scorer, captions=has_captions, without_text=without_text)


def steps_of(recipe: Recipe) -> list[Step[Any]]:
    """The steps of the recipe's funnel, in order."""
    return read_steps([step.model_dump(mode="json") for step in recipe.select])


def compared_with(recipe: Recipe) -> list[Comparison]:
    """Returns what the steps compare with sets of the section `against`, each set and kind of duplicate once."""
    return compared(steps_of(recipe))


def near_searches_of(recipe: Recipe) -> set[str]:
    """The names of the searches whose near pairs the steps read."""
    return {search for step in steps_of(recipe) for search in step.kind.near(step)}
