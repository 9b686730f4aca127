"""The passes of `embed`: pixel columns and each model's embeddings by part; prompts and target images once per run."""

from collections.abc import Iterator
from dataclasses import asdict, fields

from curate.embed.model.facts import ModelFacts
from curate.keys import chosen
from curate.prepare import Prepared
from curate.runs.booking import for_embed
from curate.runs.passes import Declaration, Layout
from curate.runs.work import Work
from curate.store import WHOLE, Inputs, Json

VERSIONS = {"pixels": 2, "embed": 4, "prompts": 4, "targets": 3}


def declare(prepared: Prepared) -> Iterator[Declaration]:
    """Yields the declarations of the pixel columns, of each model, and of each set of prompts and of targets."""
    recipe = prepared.recipe
    yield Declaration("pixels", "embed", VERSIONS["pixels"], reads=["fetch"], by_part=True, is_decided_on=True)
    for scorer in prepared.pixels:
        name, version = f"pixels-{scorer.name}", scorer.kind.version
        yield Declaration(name, "embed", version, scorer.depends, ["fetch"], by_part=True, is_decided_on=True)
    for name, model in recipe.models.items():
        depends = {**_model(prepared, name), **chosen(model, only={"mirror"}), **chosen(recipe.embed)}
        yield Declaration(
            f"embed-{name}",
            "embed",
            VERSIONS["embed"],
            depends,
            ["plan", "fetch"],
            how=_how(prepared, name),
            by_part=True,
            is_decided_on=True,
        )
    for folder, requested in prepared.prompts.items():
        name = str(requested["model"])
        depends = {**_model(prepared, name), "names": requested["names"], "prompts": requested["prompts"]}
        yield Declaration(folder, "signals", VERSIONS["prompts"], depends, how=_how(prepared, name))
    for folder, requested in prepared.targets.items():
        name = str(requested["model"])
        depends = {**_model(prepared, name), "images": [image["sha256"] for image in requested["images"]]}
        yield Declaration(folder, "signals", VERSIONS["targets"], depends, how=_how(prepared, name))


def work(prepared: Prepared, layout: Layout, *, after: str) -> Work:
    """Returns the work that embeds parts; each part starts after the same part of the work `after`."""
    recipe = prepared.recipe
    count, booking = recipe.booking("embed", for_embed, uses_gpu=True)
    outputs = layout.of("embed")
    settings = _settings(prepared)
    settings["pixels"] = {scorer.name: scorer.settings() for scorer in prepared.pixels}
    for name in prepared.models:
        # Of a set of images, only what is compared is computed (`curate.image_sets`).
        if f"embed-{name}" in outputs:
            settings["models"][name] |= outputs[f"embed-{name}"].settle()
    return Work(
        "embed",
        "curate.embed.worker:open_worker",
        {
            **settings,
            "decode": recipe.embed.decode,
            "decoders": recipe.embed.decoders,
            "captions": prepared.has_captions,
        },
        outputs,
        layout.inputs(*outputs),
        layout.parts,
        layout.rows,
        after=(after,),
        processes=count,
        booking=booking,
        label=" ".join(("embed", *recipe.models)),
        reads_ahead=True,
        total=layout.n_parts,
    )


def set_works(prepared: Prepared, layout: Layout) -> Iterator[Work]:
    """Yields the works that embed what signals compare images with: prompts in one, target images in another."""
    _, booking = prepared.recipe.booking("embed", uses_gpu=True)
    for kind, sets in (("prompts", prepared.prompts), ("targets", prepared.targets)):
        if sets:
            passes = {folder: layout.passes[folder] for folder in sets}
            begun = {folder: {**sets[folder], "how": pass_.settle()} for folder, pass_ in passes.items()}
            yield Work(
                kind,
                f"curate.embed.{kind}:open_worker",
                {**_settings(prepared), "sets": begun},
                passes,
                Inputs({}, ()),
                (WHOLE,),
                booking=booking,
            )


def _model(prepared: Prepared, name: str) -> Json:
    """Returns what embeddings depend on: the facts of the model, its precision, and whether it is compiled."""
    exactly = chosen(prepared.recipe.models[name], only={"precision", "compile"})
    return {**exactly, "model": _facts(prepared.facts[name])}


def _facts(facts: ModelFacts) -> Json:
    """Returns the facts that differ from their defaults."""
    at_default = {field.name for field in fields(facts) if getattr(facts, field.name) == field.default}
    return {name: value for name, value in asdict(facts).items() if name not in at_default}


def _how(prepared: Prepared, name: str) -> Json:
    return prepared.recipe.models[name].model_dump(mode="json", include={"threads", "batch_size"})


def _settings(prepared: Prepared) -> Json:
    recipe = prepared.recipe
    models = {
        name: {**model.model_dump(mode="json"), "weights_sha256": prepared.facts[name].weights_sha256}
        for name, model in recipe.models.items()
    }
    return {"models": models, "device": recipe.device("embed"), "endpoint": recipe.storage.endpoint}
