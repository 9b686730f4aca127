"""Renders the report page: collects what it shows and fills `page.html`.

The template escapes everything (Jinja2 with autoescape); text from outside goes through the filters `visible` (in the
page's text) or `plain` (in attributes), which also show control characters. The page has no script; its
Content-Security-Policy allows only its own style, by digest, and data images, so that markup in a caption could run
nothing even if it were not escaped.
"""

import base64
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup, escape

from curate.against import item_of
from curate.columns import PairColumns
from curate.duplicates import Compared, compared_of, kinds_of, likeness, searches_of
from curate.errors import BrokenResult, counted, short
from curate.near import FoundPairs
from curate.report.examples import Example, load
from curate.report.groups import Group, farthest, gather, largest, naming
from curate.report.histogram import Drawing, Histogram, draw
from curate.report.near import Near, NearMiss, both_kept, find_kept, read_near
from curate.report.survey import KEPT, Copy, Place, Survey, find_pairs, is_cut, survey
from curate.report.text import count, duration, percent, pieces, plain, rate, size
from curate.report.timing import timings
from curate.report.verdicts import read_verdicts
from curate.schema import FETCH, NOT_SAMPLED, UNDECODABLE, reason_words
from curate.store import Folder, Inputs, Json

Step = Mapping[str, Any]
"""One of `funnel.json`'s `steps`: its facts and its words (`curate.select.funnel.FACTS`)."""

STACKS = ("kept", "dropped by this threshold", "dropped for another reason")
"""The stacks of a similarity histogram, in the order of `survey.KEPT`, `UNDER_THRESHOLD`, `OTHER`."""

RECIPE_LINES = 400
"""Lines of the recipe that are shown, as a source may list very many paths."""

NOTES = 40
"""Notes of units that are shown."""

TOP_HOSTS = 10

GROUPS, MEMBERS = 4, 6
"""The largest groups of a duplicates step that are shown, and members of each."""

NEAR_MISSES = 6
"""Pairs just below a threshold that are shown."""

_ITEM = "matches"
"""The label of the item of a set for which a step dropped a pair."""

_ALWAYS_SHOWN = {"url", "caption", "pair_id", "image_id", "width", "height", "clip_similarity"}
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True)
class Settings:
    """The inputs of the report besides the run's files.

    Attributes:
        title: the page's heading.
        recipe: the recipe, dumped as JSON.
        facts: per model, its facts (digest of the weights, precision, preprocessing, …).
        columns: the columns of a pair of the run.
        evaluation: the demo's evaluation in its JSON form; None for a real run.
        examples: rows to show per reason.
        run: `url`, `engine`, `allow` (opened addresses), `missing` (parts that were set aside; may be left out).
    """

    title: str
    recipe: Mapping[str, Any]
    facts: Mapping[str, Mapping[str, Any]]
    columns: PairColumns
    evaluation: Mapping[str, Any] | None
    examples: int
    run: Mapping[str, Any]


@dataclass(frozen=True)
class Twins:
    """A pair dropped as a duplicate, with the kept pair that it duplicates."""

    dropped: Example
    kept: Example
    likeness: str


@dataclass(frozen=True)
class Pictured:
    """A group of duplicates: a kept pair, and members that one step dropped in favour of it, the least alike first.

    Attributes:
        kept: the kept pair.
        members: the number of members that the step dropped.
        others: other steps that dropped members, with their numbers.
        farthest: words for how alike the kept pair and the least similar member that the step dropped are.
        shown: some members, each with how alike it and the kept pair are.
    """

    kept: Example
    members: int
    others: Sequence[tuple[str, int]]
    farthest: str
    shown: Sequence[tuple[str, Example]]


@dataclass(frozen=True)
class Below:
    """Pairs of kept pairs just below a threshold, the most alike first.

    Attributes:
        by: the kind of duplicate, where a step has several; else ''.
        things: what the search compares: `images` or `captions`.
        misses: each with how alike the two are.
        candidates: the number of near pairs just below the threshold that were looked up.
    """

    by: str
    things: str
    misses: Sequence[tuple[str, Example, Example]]
    candidates: int


@dataclass(frozen=True)
class Alike:
    """The groups of a duplicates step, and pairs that are only just no duplicates.

    Attributes:
        anchor: the section's id.
        name, says: of the step.
        groups: the number of groups, and `members` that of their members: pairs that the step dropped.
        largest: the largest groups.
        lower: the step that reads the same near pairs down to a lower threshold; '' where there is none.
        below: for each search whose near pairs it reads, pairs of kept pairs just below the threshold.
    """

    anchor: str
    name: str
    says: str
    groups: int
    members: int
    largest: Sequence[Pictured]
    lower: str
    below: Sequence[Below]


@dataclass(frozen=True)
class Sheet:
    """Examples of one reason, or of what was kept.

    Attributes:
        anchor: the section's id.
        name: the reason; `kept`.
        says: what the step does.
        is_code: whether `says` is SQL.
        rows: the number of rows with the reason.
        columns: further columns to show: those that the step reads.
        pictures: a random sample of its rows.
        twins: for a duplicates step, a random sample of its rows with the kept copies, in place of `pictures`.
        below, above: for a step over a similarity, the dropped and kept rows closest to its threshold.
        threshold: that threshold.
    """

    anchor: str
    name: str
    says: str
    is_code: bool
    rows: int
    columns: Sequence[str] = ()
    pictures: Sequence[Example] = ()
    twins: Sequence[Twins] = ()
    below: Sequence[Example] = ()
    above: Sequence[Example] = ()
    threshold: float | None = None


@dataclass(frozen=True)
class Figure:
    """The histogram of one model's similarity, or of near copies.

    Attributes:
        title: what is counted.
        drawing: None where nothing was measured.
        stacks: the stacks that occur, by number and name.
        quantiles: per group of pairs, the values at `QUANTILES`.
        missing: pairs without a value.
        measure: for near copies, the name of their similarity.
        searched: for near copies, all pairs of distinct images or captions.
        things: for near copies, which of the two.
        dense: of these, those whose pairs among themselves are not stored, and so not drawn.
    """

    title: str
    drawing: Drawing | None
    stacks: Sequence[tuple[int, str]]
    quantiles: Sequence[tuple[str, Sequence[float | None]]]
    missing: int
    measure: str = ""
    searched: int | None = None
    things: str = ""
    dense: int = 0


QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Host:
    """A host with many failures: its failed images in total, and by error class."""

    name: str
    failed: int
    classes: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class _Below:
    """Near pairs just below the threshold of a search (`searches_of`) of which both sides stayed, with their places.

    `candidates` is the number of those that were looked up.
    """

    search: Json
    misses: Sequence[tuple[NearMiss, Place, Place]]
    candidates: int


@dataclass(frozen=True)
class _Duplicates:
    """The groups of one duplicates step, and near pairs below its thresholds; `lower` as in `Alike`."""

    groups: int
    members: int
    largest: Sequence[Group]
    lower: str
    below: Sequence[_Below]


@dataclass
class _Gathered:
    """Everything that was read for the page."""

    funnel: Mapping[str, Any]
    survey: Survey
    copies: Mapping[str, Sequence[Copy]]
    twins: Mapping[bytes, Place]
    duplicates: Mapping[str, _Duplicates]
    examples: Mapping[Place, Example]
    models: Sequence[str]
    columns: PairColumns
    steps: Mapping[str, Step] = field(init=False)

    def __post_init__(self) -> None:
        self.steps = {step["name"]: step for step in self.funnel["steps"]}

    def shown(self, places: Sequence[Place]) -> list[Example]:
        return [self.examples[place] for place in places]


def render(settings: Settings, inputs: Inputs) -> str:
    """Returns the whole page as HTML.

    Raises:
        BrokenResult: the parts' decisions do not add up to the funnel.
    """
    funnel = inputs["select"].json("funnel.json")
    models, columns = list(settings.recipe["models"]), settings.columns
    totals = survey(inputs, columns, models, funnel["steps"], settings.examples)
    _check_sums(funnel, totals, inputs)
    twins = find_pairs(inputs, {copy.of for copies in totals.copies.values() for copy in copies})
    readings = _readings(inputs, funnel["steps"])
    near = _read_near(inputs, readings)
    duplicates = _read_duplicates(inputs, columns, funnel["steps"], near)
    examples = load(inputs, columns, _places(totals, twins, duplicates))
    examples |= _with_items(inputs["select"], funnel["steps"], totals, examples)
    gathered = _Gathered(funnel, totals, totals.copies, twins, duplicates, examples, models, columns)
    passes = timings(inputs)
    counts = {timing.name: timing.counts for timing in passes}
    css = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    missing = sorted({*funnel["missing_parts"], *settings.run.get("missing", ())})
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=settings.title,
            run=settings.run,
            result=f"{str(settings.run['url']).rstrip('/')}/{inputs['pack'].path}/",
            funnel=funnel,
            missing=missing,
            missing_shown=ranges(missing),
            missing_pairs=sum(inputs["plan"].marker(part).counts["rows"] for part in missing),
            n_parts=len(inputs.parts),
            fetched=counts.get("fetch", Counter()),
            packed=counts.get("pack", Counter()),
            errors=_errors(counts.get("fetch", Counter()), gathered),
            hosts=_hosts(totals),
            hosts_error=totals.failures.error,
            verdicts=read_verdicts(settings.evaluation),
            figures=[_figure(model, gathered) for model in totals.similarity],
            near=_near(readings, near),
            quantiles=QUANTILES,
            kept=_kept_sheet(gathered),
            dropped=_dropped_sheets(gathered),
            alike=_alike(gathered),
            failed=_failed_sheets(gathered),
            columns=_scores(list(totals.similarity)),
            passes=passes,
            notes=[(timing.name, unit, note) for timing in passes for unit, note in timing.notes],
            max_notes=NOTES,
            facts=settings.facts,
            fact_names=list(dict.fromkeys(name for facts in settings.facts.values() for name in facts)),
            recipe=_recipe_lines(settings.recipe),
            css=Markup(css),  # noqa: S704 (our own file)
            css_digest=base64.b64encode(hashlib.sha256(css.encode()).digest()).decode(),
        )
    )


def _scores(models: Sequence[str]) -> list[tuple[str, str]]:
    """The columns with the similarity of these models, with their labels."""
    if len(models) == 1:
        return [("similarity", "clip_similarity")]
    return [(model, f"clip_similarity_{model}") for model in models]


def ranges(numbers: Sequence[int], limit: int = 40) -> str:
    """Returns numbers as text, consecutive ones as a range: `3, 7–9`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    shown = ["–".join(map(str, run)) for run in runs[:limit]]
    return ", ".join(shown + ["…"] * (len(runs) > limit))


def _check_sums(funnel: Mapping[str, Any], totals: Survey, inputs: Inputs) -> None:
    """Raises BrokenResult where the decisions, counted again, do not add up to the funnel that the page prints."""
    listed = {step["name"]: step["dropped"] for step in funnel["steps"] if step["dropped"]}
    if totals.kept != funnel["kept"] or dict(+totals.dropped) != listed:
        raise BrokenResult(
            f"{inputs['select'].path}: the parts' decisions (kept {totals.kept}, dropped "
            f"{dict(+totals.dropped)}) are not those of funnel.json (kept {funnel['kept']}, dropped {listed})"
        )


def _readings(inputs: Inputs, steps: Sequence[Step]) -> dict[str, list[tuple[Json, bool]]]:
    """Returns, by pass, the searches that steps read from it, each with whether the step is by no other kind."""
    by_pass: defaultdict[str, list[tuple[Json, bool]]] = defaultdict(list)
    for step in steps:
        for search in searches_of(step):
            if search["near"] in inputs.folders:
                by_pass[search["near"]].append((search, _is_by_one_kind(step)))
    return dict(by_pass)


def _read_near(inputs: Inputs, readings: Mapping[str, Sequence[tuple[Json, bool]]]) -> dict[str, Near]:
    """Reads the near pairs of each pass; the histogram is divided where the first step by this kind alone begins."""
    near = {}
    for name, reads in readings.items():
        lines = [search["threshold"] for search, _ in reads]
        alone = [search["threshold"] for search, is_alone in reads if is_alone]
        near[name] = read_near(FoundPairs.of(inputs, name), lines, min(alone or lines))
    return near


def _read_duplicates(
    inputs: Inputs, columns: PairColumns, steps: Sequence[Step], near: Mapping[str, Near]
) -> dict[str, _Duplicates]:
    """Reads the groups of each step that names kept pairs, and the pairs just below its thresholds."""
    select, names = inputs["select"], naming(steps)
    if not names:
        return {}
    rankings = dict(zip(names, largest(select, inputs.parts, [[name] for name in names], GROUPS), strict=True))
    shown = {size.kept for ranking in rankings.values() for size in ranking.largest}
    groups = gather(select, inputs.parts, shown, MEMBERS)
    lower = {step["name"]: _lower(step, steps) for step in steps if step["name"] in rankings}
    below = {
        step["name"]: [
            (search, near[search["near"]].below[search["threshold"]])
            for search in searches_of(step)
            if search["near"] in near and not lower[step["name"]]
        ]
        for step in steps
        if step["name"] in rankings
    }
    digests: defaultdict[Compared, set[str]] = defaultdict(set)
    for search, misses in (found for searches in below.values() for found in searches):
        digests[compared_of(search)].update(digest for miss in misses for digest in miss.digests)
    places = find_kept(inputs, columns, digests)
    return {
        name: _Duplicates(
            ranking.groups,
            ranking.members,
            [groups[size.kept] for size in ranking.largest],
            lower[name],
            [
                _Below(search, both_kept(misses, places.get(compared_of(search), {}), NEAR_MISSES), len(misses))
                for search, misses in below[name]
            ],
        )
        for name, ranking in rankings.items()
    }


def _is_by_one_kind(step: Step) -> bool:
    return len(kinds_of(step)) == 1


def _lower(step: Step, steps: Sequence[Step]) -> str:
    """Returns the step that reads the near pairs of the same only search down to the lowest threshold.

    '' where that is this step, or where it is by several kinds: pairs below its thresholds are of its own.
    """
    if not searches_of(step) or not _is_by_one_kind(step):
        return ""
    (own,) = searches_of(step)
    alone = [(other, searches_of(other)[0]) for other in steps if searches_of(other) and _is_by_one_kind(other)]
    same = [(search["threshold"], other["name"]) for other, search in alone if search["near"] == own["near"]]
    _, name = min(same, key=lambda pair: float(pair[0]))
    return "" if name == step["name"] else str(name)


def _places(totals: Survey, twins: Mapping[bytes, Place], duplicates: Mapping[str, _Duplicates]) -> list[Place]:
    """The places of all rows to show; those that need a picture most come first, as the pictures' size is limited."""
    places = [copy.place for copies in totals.copies.values() for copy in copies]
    places += twins.values()
    for name, found in duplicates.items():
        for group in found.largest:
            places += [group.place, *(member.place for member in group.caught[name].least_alike)]
        places += [place for below in found.below for _, one, other in below.misses for place in (one, other)]
    for close in (totals.below, totals.above):
        places += [place for rows in close.values() for _, place in rows]
    return places + [place for rows in totals.examples.values() for place in rows]


def _with_items(
    select: Folder, steps: Sequence[Step], totals: Survey, examples: Mapping[Place, Example]
) -> dict[Place, Example]:
    """Returns the examples of steps that compare with a set, with the item that each matches as a further column."""
    found = {}
    for step in steps:
        for place in totals.examples.get(step["name"], []) if step.get("against") else ():
            example = examples[place]
            item = item_of(select, place.part, example.values["pair_id"])
            if item is not None:
                words = likeness({"by": step["against"][0]["by"]}, item["similarity"])
                values = {**example.values, _ITEM: f"{item['item']} of {item['set']}, {words}"}
                found[place] = replace(example, values=values)
    return found


def _kept_sheet(gathered: _Gathered) -> Sheet:
    pictures = gathered.shown(gathered.survey.examples.get(None, []))
    return Sheet("kept", "kept", "", False, gathered.funnel["kept"], pictures=pictures)


def _has_no_picture(step: Step) -> bool:
    name = str(step["name"])
    return step["kind"] == "before" and (name.startswith(FETCH) or name == UNDECODABLE)


def _failed_sheets(gathered: _Gathered) -> list[Sheet]:
    return [
        Sheet(
            f"reason-{number}",
            step["name"],
            step["says"],
            step["is_code"],
            step["dropped"],
            pictures=gathered.shown(gathered.survey.examples.get(step["name"], [])),
        )
        for number, step in enumerate(gathered.funnel["steps"])
        if _has_no_picture(step) and step["dropped"]
    ]


def _dropped_sheets(gathered: _Gathered) -> list[Sheet]:
    sheets = []
    for number, step in enumerate(gathered.funnel["steps"]):
        name = step["name"]
        if _has_no_picture(step) or not step["dropped"] or name == NOT_SAMPLED:
            continue
        pictures = gathered.shown(gathered.survey.examples.get(name, []))
        twins = [
            _twins(step, gathered.examples[copy.place], gathered.examples[gathered.twins[copy.of]], copy.similarity)
            for copy in sorted(gathered.copies.get(name, []), key=lambda copy: copy.similarity or 0.0)
        ]
        any_row = next(iter([*pictures, *(pair.dropped for pair in twins)]), None)
        sheets.append(
            Sheet(
                f"reason-{number}",
                name,
                step["says"],
                step["is_code"],
                step["dropped"],
                columns=_columns_of(step, any_row, gathered.models),
                pictures=pictures,
                twins=twins,
                below=gathered.shown([place for _, place in gathered.survey.below.get(name, [])]),
                above=gathered.shown([place for _, place in gathered.survey.above.get(name, [])]),
                threshold=step["threshold"],
            )
        )
    return sheets


def _twins(step: Step, dropped: Example, kept: Example, similarity: float | None) -> Twins:
    return Twins(dropped, kept, _likeness(step, dropped, kept, similarity))


def _likeness(step: Step, dropped: Example, kept: Example, similarity: float | None) -> str:
    return likeness(step, similarity, dropped.values, kept.values) or "duplicate"


def _alike(gathered: _Gathered) -> list[Alike]:
    return [
        Alike(
            f"duplicates-{number}",
            step["name"],
            step["says"],
            found.groups,
            found.members,
            [_pictured(step, group, gathered) for group in found.largest],
            found.lower,
            [
                Below(
                    "" if _is_by_one_kind(step) else below.search["by"],
                    f"{compared_of(below.search).noun}s",
                    [
                        (likeness(below.search, miss.similarity), gathered.examples[one], gathered.examples[other])
                        for miss, one, other in below.misses
                    ],
                    below.candidates,
                )
                for below in found.below
            ],
        )
        for number, step in enumerate(gathered.funnel["steps"])
        if (found := gathered.duplicates.get(step["name"])) and (found.groups or found.below or found.lower)
    ]


def _pictured(step: Step, group: Group, gathered: _Gathered) -> Pictured:
    caught, kept = group.caught[step["name"]], gathered.examples[group.place]
    shown = [
        (_likeness(step, gathered.examples[member.place], kept, member.similarity), gathered.examples[member.place])
        for member in caught.least_alike
    ]
    others = [(name, group.caught[name].members) for name in gathered.steps if name in group.caught]
    others = [(name, number) for name, number in others if name != step["name"]]
    return Pictured(kept, caught.members, others, farthest(shown[0][0]), shown)


def _columns_of(step: Step, example: Example | None, models: Sequence[str]) -> list[str]:
    """The columns that a step reads, without those that are shown under every picture."""
    if example is None:
        return []
    shown = _ALWAYS_SHOWN | {f"clip_similarity_{model}" for model in models}
    read = [name for name in step["columns"] if name in example.values and name not in shown]
    return [_ITEM, *read] if _ITEM in example.values else read


def _figure(model: str, gathered: _Gathered) -> Figure:
    histogram = gathered.survey.similarity[model]
    cuts = [step for step in gathered.funnel["steps"] if is_cut(step, model, gathered.columns)]
    lines = [step["threshold"] for step in cuts if step["threshold"] is not None]
    names = STACKS if cuts else (STACKS[0], "", "dropped")
    return _drawn(f"clip_similarity_{model}", histogram, names, lines, [("all pairs", None), ("kept", KEPT)])


def _near(readings: Mapping[str, Sequence[tuple[Json, bool]]], near: Mapping[str, Near]) -> list[Figure]:
    """Returns a histogram for each search whose near pairs a step reads."""
    figures = []
    for name, reads in readings.items():
        is_alone = any(alone for _, alone in reads)
        above = (
            "at most one of the two stays" if is_alone else "duplicates where the step's other kinds count them, too"
        )
        names = ("", f"at the threshold or above: {above}", "below: both may stay")
        first, _ = reads[0]
        title = "Near copies" if len(readings) == 1 else f"Near copies by {first['by']}"
        figure = _drawn(title, near[name].histogram, names, [search["threshold"] for search, _ in reads], [])
        of_search = {"searched": first["searched"], "dense": first.get("dense", 0)}
        figures.append(replace(figure, measure=first["measure"], things=f"{compared_of(first).noun}s", **of_search))
    return figures


def _drawn(
    title: str,
    histogram: Histogram,
    names: Sequence[str],
    thresholds: Sequence[float],
    groups: Sequence[tuple[str, int | None]],
) -> Figure:
    stacks = [(stack, names[stack]) for stack in range(histogram.stacks) if histogram.counts[stack].any()]
    quantiles = [(group, [histogram.quantile(share, stack) for share in QUANTILES]) for group, stack in groups]
    return Figure(title, draw(histogram, names, thresholds), stacks, quantiles, histogram.missing)


def _errors(fetched: Mapping[str, int], gathered: _Gathered) -> list[tuple[str, str, int, int]]:
    """Returns (class, its words, images, pairs) for each error class, the most frequent first."""
    rows = []
    for name, images in fetched.items():
        if name.startswith("error:") and images:
            reason = FETCH + name.removeprefix("error:")
            pairs = int(gathered.steps[reason]["dropped"]) if reason in gathered.steps else 0
            rows.append((name.removeprefix("error:"), reason_words(reason), images, pairs))
    return sorted(rows, key=lambda row: (-row[2], row[0]))


def _hosts(totals: Survey) -> list[Host]:
    classes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (host, error), number in totals.failures.counts.items():
        classes[host][error] = number
    hosts = [
        Host(host, errors.total(), sorted(errors.items(), key=lambda item: (-item[1], item[0])))
        for host, errors in classes.items()
    ]
    return sorted(hosts, key=lambda host: (-host.failed, host.name))[:TOP_HOSTS]


def _recipe_lines(recipe: Mapping[str, Any]) -> list[str]:
    text = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True, width=100)
    # Reports are passed on to others, so passwords in URLs of the source are removed.
    lines = [plain(_CREDENTIALS.sub("…@", line), 500) for line in text.rstrip("\n").split("\n")]
    hidden = len(lines) - RECIPE_LINES
    return lines if hidden <= 0 else [*lines[:RECIPE_LINES], f"… ({hidden} more lines)"]


def visible(text: object, limit: int = 300) -> Markup:
    """Returns escaped text whose control and reordering characters are shown as escapes and marked."""
    shown = (
        Markup('<span class="esc">{}</span>').format(piece) if hostile else escape(piece)
        for piece, hostile in pieces(str(text), limit)
    )
    return Markup("").join(shown)


def _scalar(given: object) -> str:
    """Returns a column's value or a model's fact as short text."""
    if given is None:
        return "–"
    if isinstance(given, bool):
        return "yes" if given else "no"
    if isinstance(given, float):
        return f"{given:.4f}" if abs(given) <= 1 else short(given)
    if isinstance(given, int):
        return count(given)
    if isinstance(given, bytes):
        return given.hex()
    if isinstance(given, str):
        return plain(given, 120)
    return plain(json.dumps(given, ensure_ascii=False, default=str), 300)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=count,
        counted=counted,
        percent=percent,
        size=size,
        duration=duration,
        rate=rate,
        visible=visible,
        plain=plain,
        scalar=_scalar,
    )
    environment.globals.update(FETCH=FETCH)
    return environment
