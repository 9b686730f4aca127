"""The last unit of the pack pass: the dataset card, and the files that the layouts write once for all shards."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from curate.duplicates import compared_of, kinds_of, searches_of
from curate.errors import counted
from curate.pack.layouts.contract import Description, LayoutFiles, Packed
from curate.pack.layouts.registry import layouts
from curate.pack.rows import Settings
from curate.pack.worker import Worker, shard_sizes
from curate.store import Inputs, Json, Outputs


def open_worker(settings: Mapping[str, Any]) -> Worker:
    """Returns the worker that writes the card.

    Args:
        settings: those of the pack pass; `recipe`: the recipe without paths; `facts`: by model, the first model first,
            its name, the digest of its weights, ….
    """
    recipe, facts = settings["recipe"], settings["facts"]
    chosen = Settings.of(settings)
    written = layouts(chosen.layouts)

    def describe(unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:  # noqa: ARG001
        out, select = outputs["pack"], inputs["select"]
        has_captions = "caption" in chosen.columns.measured_by("plan")
        packed = Packed(shard_sizes(select, chosen.shard_size), chosen.columns.embeddings(), has_captions)
        described = [layout.describe(packed) for layout in written]
        text = card(select.json("funnel.json"), recipe, facts, described, has_captions=has_captions)
        out.put("README.md", text.encode(), name="README.md")
        for layout in written:
            layout.write_whole(packed, LayoutFiles(out, layout.name))

    return describe


def card(
    funnel: Json,
    recipe: Json,
    facts: Mapping[str, Json],
    descriptions: Sequence[Description],
    *,
    has_captions: bool = True,
) -> str:
    """Returns the dataset card in Markdown: a function of the decisions and of what they depend on.

    The card contains no paths, times or captions.

    Args:
        funnel: the content of `funnel.json`.
        recipe: the recipe's sections.
        facts: by model, the first model first: its name, the digest of its weights, ….
        descriptions: the layouts' descriptions of their files, in the recipe's order.
        has_captions: whether the pairs have captions, or are images alone.
    """
    kept, planned = funnel["kept"], funnel["planned"]
    missing = len(funnel["missing_parts"])
    left_out = f" {counted(missing, 'part')} of the list missing from this result." if missing else ""
    if sample := funnel["sample"]:
        left_out += f" A sample: {sample['rows']:,} of {counted(sample['n_rows'], 'row')} of the list were decided on."
    what = f"{counted(kept, 'pair')} of an image and a caption" if has_captions else counted(kept, "image")
    holds = " and ".join(described.holds for described in descriptions)
    return "\n".join(
        [
            *_metadata(descriptions),
            "# Image-text pairs" if has_captions else "# Images",
            "",
            (
                f"{what} in {holds}, kept from {planned:,} planned ones "
                f"({_share(kept, planned)}).{left_out} Made by Curate."
            ),
            "",
            _origin(recipe.get("source", {}), has_captions=has_captions),
            "",
            "## How pairs were chosen",
            "",
            *_funnel(funnel),
            "",
            *_searches(funnel),
            "## Models",
            "",
            *_models(recipe, facts),
            "",
            "## Images",
            "",
            *_images(recipe.get("fetch", {})),
            "",
            *_section("Files", [described.files for described in descriptions]),
            *_section("Reading", [described.reading for described in descriptions]),
        ]
    )


def _metadata(descriptions: Sequence[Description]) -> list[str]:
    """The YAML block for Hugging Face's `load_dataset`, which would load the tables as the data without it."""
    data_files = next((described.data_files for described in descriptions if described.data_files), "")
    return ["---", "configs:", "- config_name: default", f"  data_files: {data_files}", "---", ""] if data_files else []


def _origin(source: Mapping[str, Any], *, has_captions: bool) -> str:
    what = "Images and captions" if has_captions else "Images"
    if source.get("kind") == "samples":
        return (
            f"{what} were read from existing samples and belong to their owners; each sample carries the URL that its "
            "json gave, or else a name made of its tar or folder and its key (`sample:…`)."
        )
    return f"{what} were collected from public URLs and belong to their owners; each sample carries its URL."


def _funnel(funnel: Json) -> list[str]:
    """A table with a row for each step, in order; a pair is dropped by the first step that applies."""
    rows = [
        (
            _code(step["name"]),
            _cell(step["rule"]),
            f"{step['seen']:,}",
            f"{step['dropped']:,}",
            _share(step["dropped"], step["seen"]),
            f"{step['nulls']:,}" if step["nulls"] else "",
        )
        for step in funnel["steps"]
    ]
    kept = f"**{funnel['kept']:,}**"
    rows.append(("**kept**", "", kept, "", "", ""))
    return _table(("step", "drops", "reached it", "dropped", "share", "without a value"), "llrrrr", rows)


def _searches(funnel: Json) -> list[str]:
    """Lines about what the searches for near duplicates cover."""
    lines = []
    for step in funnel["steps"]:
        for search in searches_of(step):
            by = f" by {_code(search['by'])}" if len(kinds_of(step)) > 1 else ""
            noun = compared_of(search).noun
            dense = counted(search.get("dense", 0), noun)
            among = f" Pairs among the {dense} that are near very many others were compared when the step decided."
            lines.append(
                f"The search for {_code(step['name'])}{by} is exact: each of the {counted(search['searched'], 'pair')} "
                f"of distinct {noun}s was compared, or excluded by a proved bound."
                f"{among if search.get('dense') else ''}"
            )
    return [*lines, ""] if lines else []


def _models(recipe: Json, facts: Mapping[str, Json]) -> list[str]:
    rows = []
    for model, found in facts.items():
        known = {**recipe.get("models", {}).get(model, {}), **found}
        rows += [
            (_code(model), _cell(key.replace("_", " ")), _code(_placeless(value)))
            for key, value in sorted(known.items())
            if isinstance(value, str | int | float) and key not in ("threads", "batch_size")
        ]
    return _table(("model", "fact", "value"), "lll", rows)


def _images(fetch: Json) -> list[str]:
    named = ("image_size", "resize", "only_if_bigger", "format", "quality", "max_pixels")
    rows = [(_cell(name.replace("_", " ")), _code(fetch[name])) for name in named if name in fetch]
    return _table(("setting", "value"), "ll", rows)


def _section(title: str, of_layouts: Sequence[Sequence[str]]) -> list[str]:
    """A section with the lines of each layout, an empty line after each."""
    return [f"## {title}", "", *(line for lines in of_layouts for line in (*lines, ""))]


def _table(head: Sequence[str], align: str, rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["--:" if side == "r" else "---" for side in align], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _placeless(value: object) -> object:
    """Returns a value, of a path only its last component, so that the card does not depend on where files are."""
    is_path = isinstance(value, str) and "/" in value and not value.startswith("hf-hub:")
    return PurePath(str(value)).name if is_path else value


def _code(value: object) -> str:
    text = _cell(value)
    # A code span that holds a backtick is fenced by two.
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _cell(value: object) -> str:
    """Returns a value as text for a table cell: on one line, with `|` escaped."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"
