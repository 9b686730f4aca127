"""`curate explain`: the whole way of one pair, from the tables of a run."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate import schema
from curate.commands.find_pairs import rows
from curate.errors import UsageError
from curate.report.funnel import best
from curate.report.terminal import plain
from curate.runs.latest import newest
from curate.select.predicate import verdicts
from curate.store import WHOLE, Folder, Json, Store, key


def lines(store: Store, wanted: str, sample: float | None = None) -> Iterator[str]:
    """The pair of that id, or every pair of that URL: where it came from, what was measured, what each step says of it.

    Args:
        store: the run.
        wanted: an id, the beginning of one, or a URL.
        sample: the sample that is meant, or None for the whole run.

    Raises:
        UsageError: nothing was decided yet, or it is not clear which pair is meant, or there is no such sample.
    """
    decided = newest(store, sample)
    if not decided:
        raise UsageError(f"{store.url}: nothing was decided yet; `curate status` says how far it is")
    folders = {short: _folder(store, path) for short, path in decided["folders"].items()}
    for part, row in rows(folders["plan"], wanted):
        yield from _explain(folders, part, row, decided)


def _folder(store: Store, path: str) -> Folder:
    name, _, fingerprint = path.rpartition("-")
    return Folder(store, name, fingerprint)


def _params(folder: Folder) -> Json:
    """The slice of the recipe that a pass was run with."""
    params: Json = folder.store.read_json(f"{folder.path}/pass.json")["params"]
    return params


def _explain(folders: dict[str, Folder], part: int, row: int, decided: Json) -> Iterator[str]:
    pairs = folders["plan"].table("pairs.parquet", part)
    facts = pairs.slice(row, 1).to_pylist()[0]
    yield f"pair        {facts['pair_id'].hex()}"
    yield f"url         {plain(facts['url'])}"
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
    decision = folders["select"].table("decisions.parquet", part).slice(row, 1).to_pylist()[0]
    yield from _verdict(decision)
    if decision["reason"] == schema.REPEATED:
        return
    image = _row_of(folders["fetch"].table("images.parquet", part), "image_id", facts["image_id"])
    yield from _fetched(image)
    if image["status"] != schema.FETCHED:
        return
    columns = {**facts, **image}
    columns |= _row_of(folders["pixels"].table("pixels.parquet", part), "image_id", facts["image_id"])
    # The manifest sorts folders by name; which model is the first stands in what select was told.
    first = f"embed-{_params(folders['select'])['models'][0]}"
    for short, folder in folders.items():
        if short.startswith("embed-"):
            names = (schema.SIMILARITY, schema.MIRRORED)
            scores = [name for name in folder.columns("pairs.parquet", part) if name in names]
            found = _row_of(folder.table("pairs.parquet", part, ["pair_id", *scores]), "pair_id", facts["pair_id"])
            for name in scores:
                columns[f"{name}_{short.removeprefix('embed-')}"] = found[name]
                columns |= {name: found[name]} if short == first else {}
        elif short.startswith("signals-"):
            columns |= _row_of(folder.table("pairs.parquet", part), "pair_id", facts["pair_id"])
    yield "measured"
    shown = {name: value for name, value in columns.items() if name not in {*facts, *schema.IMAGES.names}}
    for name, value in shown.items():
        yield f"  {name:<28} {_value(value)}"
    yield "steps"
    yield from _steps(folders["select"], columns, decision)
    if decision["kept"] and folders["pack"].is_done():
        yield from _packed(folders, part, row)


def _verdict(decision: dict[str, Any]) -> Iterator[str]:
    yield f"decision    {'kept' if decision['kept'] else 'dropped: ' + decision['reason']}"
    if decision["duplicate_of"]:
        yield f"copies      {decision['duplicate_of'].hex()} at {decision['duplicate_similarity']:.6f}, which is kept"


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


def _steps(select: Folder, columns: dict[str, Any], decision: dict[str, Any]) -> Iterator[str]:
    """What each step says of the pair by itself, and which one it fell to."""
    steps = [{"where": None, "keep_top": None, "duplicates": None, **step} for step in _params(select)["steps"]]
    funnel: dict[str, Json] = {step["name"]: step for step in select.json("funnel.json", WHOLE)["steps"]}
    by_itself = verdicts(steps, columns) if columns["decoded"] else {}
    for step in steps:
        name = step["drop"]
        if step["where"] is not None:
            said = {True: "drops it", False: "lets it pass", None: "has no value, lets it pass"}.get(
                by_itself.get(name), "lets it pass"
            )
            if not by_itself:
                said = "was not asked"
            rule = step["where"]
        elif step["keep_top"] is not None:
            threshold = funnel[name]["threshold"]
            rule = f"among {best(funnel[name])}" + ("" if threshold is None else f": at least {_value(threshold)}")
            said = f"it has {_value(columns.get(step['keep_top']['of']))}"
        else:
            above = step["duplicates"].get("above")
            rule = f"duplicates by {step['duplicates']['by']}" + (f" at {above:g} or more" if above else "")
            said = "drops it" if decision["reason"] == name else "lets it pass"
        mark = "→" if decision["reason"] == name else " "
        yield f"{mark} {name:<16} {said}  [{plain(rule)}]"
        if decision["reason"] == name:
            break


def _packed(folders: dict[str, Folder], part: int, row: int) -> Iterator[str]:
    select, pack = folders["select"], folders["pack"]
    totals = select.table("parts.parquet")
    before = pc.sum(totals.filter(pc.less(totals["part"], part))["kept"]).as_py() or 0
    kept = select.table("decisions.parquet", part, ["kept"])["kept"].slice(0, row)
    place = before + (pc.sum(pc.cast(kept, pa.int64())).as_py() or 0)
    # Every shard but the last holds as many as the first.
    size = pack.marker(0).counts["samples"]
    yield f"packed      sample {place % size} of {pack.path}/shards/{place // size:08d}.tar"


def _row_of(table: pa.Table, column: str, value: bytes) -> dict[str, Any]:
    matching = table.filter(pc.equal(table[column], pa.scalar(value, schema.ID)))
    found: dict[str, Any] = matching.slice(0, 1).to_pylist()[0]
    return found


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}"
    return plain(str(value))
