"""`curate explain`: prints everything that a run's tables say about one pair."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate import schema
from curate.against import item_of
from curate.columns import PairColumns, predicate_view
from curate.columns import read as read_columns
from curate.commands.find_pairs import rows
from curate.duplicates import compared_columns, kinds_of, likeness
from curate.errors import UsageError
from curate.report.terminal import plain
from curate.runs.latest import newest
from curate.select.steps.registry import read as read_steps
from curate.store import WHOLE, Folder, Inputs, Json, Store, key


def lines(store: Store, wanted: str, sample: float | None = None) -> Iterator[str]:
    """Yields lines about the pair of an id, or about every pair of a URL: source, columns, each step's decision.

    Args:
        store: the run.
        wanted: a pair id, an id prefix, or a URL.
        sample: the share of the sample to read, or None for the whole run.

    Raises:
        UsageError: nothing is decided yet, the pair does not exist or is ambiguous, or there is no such sample.
    """
    decided = newest(store, sample)
    if not decided:
        raise UsageError(f"{store.url}: no decisions yet; `curate status` shows the progress of the run")
    folders = {short: Folder.at(store, path) for short, path in decided["folders"].items()}
    for part, row in rows(folders["plan"], wanted):
        yield from _explain(folders, part, row, decided)


def _params(folder: Folder) -> Json:
    """The parameters that a pass was run with (`params` of its pass.json)."""
    params: Json = folder.described()["params"]
    return params


def _explain(folders: dict[str, Folder], part: int, row: int, decided: Json) -> Iterator[str]:
    # The columns of the run that decided, as the recipe may have changed since.
    columns = PairColumns.from_json(folders["select"].json("columns.json"))
    inputs = Inputs(folders, [part])

    def read(names: Iterable[str]) -> pa.Table:
        return read_columns(inputs, columns, part, names, [row])

    facts = _values(read(columns.measured_by("plan")))
    yield f"pair        {facts['pair_id'].hex()}"
    yield f"url         {plain(facts['url'])}"
    if "caption" in facts:
        yield f"caption     {plain(facts['caption'])}"
    of = "samples" if "sample_place" in facts else "lists"
    yield f"from        row {facts['source_row']} of the {of}, part {key(part)}"
    if "sample_place" in facts:
        place = folders["plan"].store.read_json("run.json")["source"][facts["sample_place"]]["path"]
        yield f"sample      {plain(facts['sample_member'] or 'no image')} in {plain(place)}"
    if part >= decided["parts"]:
        yield "decision    none: its part is not in this sample"
        return
    if part in decided["missing_parts"]:
        yield "decision    none: its part is missing from this result"
        return
    decision = _values(read([*columns.decisions(), *compared_columns(columns.types())]))
    yield from _verdict(folders, columns, decision, decided)
    yield from _matched(folders["select"], part, facts["pair_id"], decision)
    if decision["reason"] in (schema.REPEATED, schema.NOT_SAMPLED):
        return
    image = _values(read(columns.measured_by("fetch")))
    yield from _fetched(image)
    if image["status"] != schema.FETCHED:
        return
    pair = read(columns.types())
    yield "measured"
    for name, value in _values(pair.select(columns.measured_by("pixels", "embed", "signals"))).items():
        yield f"  {name:<28} {_value(value)}"
    yield "steps"
    yield from _steps(folders["select"], predicate_view(pair), decision)
    if decision["kept"] and folders["pack"].is_done():
        yield from _packed(folders, part, row)


def _verdict(folders: dict[str, Folder], columns: PairColumns, decision: Json, decided: Json) -> Iterator[str]:
    yield f"decision    {'kept' if decision['kept'] else 'dropped: ' + decision['reason']}"
    if kept := decision["duplicate_of"]:
        steps = folders["select"].json("funnel.json", WHOLE)["steps"]
        step = next(step for step in steps if step["name"] == decision["reason"])
        names = compared_columns(columns.types())
        words = likeness(
            step, decision["duplicate_similarity"], decision, _kept(folders, columns, kept, names, decided)
        )
        kinds = kinds_of(step)
        by = f", by {plain(' and '.join(kinds))}" if kinds else ""
        yield f"copies      {kept.hex()}, which is kept{by}{words and ': '}{words}"


def _matched(select: Folder, part: int, pair: bytes, decision: Json) -> Iterator[str]:
    """Yields a line about the item of a set for which a step dropped the pair."""
    if decision["kept"] or (item := item_of(select, part, pair)) is None:
        return
    steps = select.json("funnel.json", WHOLE)["steps"]
    step = next(step for step in steps if step["name"] == decision["reason"])
    kinds = [one["by"] for one in step["against"]]
    words = likeness({"by": kinds[0]}, item["similarity"])
    yield f"matches     {plain(item['item'])} of the set {item['set']}, by {plain(' and '.join(kinds))}: {words}"


def _kept(
    folders: dict[str, Folder], columns: PairColumns, kept: bytes, names: Sequence[str], decided: Json
) -> Json | None:
    """Returns columns of a kept pair; None where the pair is kept in no part."""
    for part, row in rows(folders["plan"], kept.hex()):
        if part >= decided["parts"] or part in decided["missing_parts"]:
            continue
        found: Json
        (found,) = read_columns(Inputs(folders, [part]), columns, part, ["kept", *names], [row]).to_pylist()
        if found["kept"]:
            return found
    return None


def _fetched(image: dict[str, Any]) -> Iterator[str]:
    if image["status"] == schema.FETCHED:
        where = "" if image["host"] is None else f" in {image['milliseconds']} ms from {plain(str(image['host']))}"
        yield (
            f"fetched     {image['bytes']:,} bytes{where}, "
            f"{image['original_width']}×{image['original_height']}, stored {image['width']}×{image['height']}"
        )
        yield f"sha256      {image['sha256']}"
    else:
        yield f"fetched     no: {image['error_class']}: {plain(str(image['error']))}"


def _steps(select: Folder, pair: pa.Table, decision: dict[str, Any]) -> Iterator[str]:
    """Yields what each step decides on the pair by itself, and marks the step that dropped it."""
    facts: dict[str, Json] = {step["name"]: step for step in select.json("funnel.json", WHOLE)["steps"]}
    decoded, reason = pair["decoded"][0].as_py(), decision["reason"]
    for step in read_steps(_params(select)["steps"]):
        verdict = step.kind.of_pair(step, facts[step.name], pair, reason) if decoded else "not applied"
        mark = "→" if reason == step.name else " "
        yield f"{mark} {step.name:<16} {plain(verdict)}  [{plain(facts[step.name]['says'])}]"
        if reason == step.name:
            break


def _packed(folders: dict[str, Folder], part: int, row: int) -> Iterator[str]:
    select, pack = folders["select"], folders["pack"]
    totals = select.table("parts.parquet")
    before = pc.sum(totals.filter(pc.less(totals["part"], part))["kept"]).as_py() or 0
    kept = select.table("decisions.parquet", part, ["kept"])["kept"].slice(0, row)
    place = before + (pc.sum(pc.cast(kept, pa.int64())).as_py() or 0)
    # Every shard but the last holds as many as the first.
    size = pack.marker(0).counts["samples"]
    shard, sample = divmod(place, size)
    files = sorted(info.name for info in pack.marker(shard).files.values() if info.rows is not None)
    yield f"packed      sample {sample} of shard {shard:08d} in {pack.path}: {', '.join(files)}"


def _values(row: pa.Table) -> dict[str, Any]:
    """Returns the values of a table's only row."""
    (values,) = row.to_pylist()
    return dict(values)


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}"
    return plain(str(value))
