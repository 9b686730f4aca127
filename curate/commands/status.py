"""`curate status`: prints the state of a run's folders, from its markers; also works during the run."""

from collections.abc import Iterator

from curate.errors import StoreError, counted
from curate.runs.identity import placeless
from curate.runs.latest import newest
from curate.runs.one_driver import holder
from curate.runs.options import manifest_name
from curate.runs.retry_rounds import without_gain
from curate.store import WHOLE, Folder, Json, Store, key


def lines(store: Store, sample: float | None) -> Iterator[str]:
    """Yields lines about every pass folder, and the funnel of the newest decisions of the run or the sample.

    Raises:
        StoreError: there is no run.
        UsageError: there is no such sample.
    """
    # While a run is being planned, it has the folder of a plan but no run.json.
    identity = store.read_json("run.json") if store.exists("run.json") else None
    folders = Folder.all_in(store)
    if identity is None and not folders:
        raise StoreError(f"{store.url} is not a Curate run: it has no run.json")
    decided = newest(store, sample)
    current = {*decided.get("folders", {}).values(), *decided.get("rounds", [])}
    fruitless = without_gain(store)
    plans = [folder for folder in folders if folder.name == "plan"]
    others = {plan.path for plan in plans if identity is None or _source(plan) != placeless(identity)}
    n_parts = next((_parts(plan) for plan in plans if plan.path not in others and plan.is_done()), None)
    yield f"run      {store.url}"
    if running := holder(store):
        yield f"driver   {running}"
    yield f"parts    {n_parts if n_parts is not None else 'not planned yet'}"
    width = max((len(folder.path) for folder in folders), default=0)
    for folder in folders:
        units = folder.units()
        failed = store.names(f"{folder.bookkeeping}/failed")
        count = len(units - {WHOLE})
        state = "done" if WHOLE in units else f"{count} of {n_parts} parts"
        state += f", {len(failed)} set aside" if failed else ""
        if identity and folder.path in others:
            state += "  (of another source)"
        elif folder.path in fruitless:
            state += "  (a round that recovered no image)"
        elif decided and folder.path not in current:
            state += "  (of another recipe or sample)"
        yield f"{folder.path:<{width}}  {state}"
        for name in failed:
            error = store.read_json(f"{folder.bookkeeping}/failed/{name}")
            yield f"{'':<{width}}    {key(int(error['unit']))}: {error['error']}"
    if not decided:
        yield "result   none yet"
        return
    yield f"result   {_result(store, sample, decided)}"
    report = Folder.at(store, decided["folders"]["report"])
    if report.is_done():
        yield f"report   {store.path(report.file('index.html'))}"
    funnel = Folder.at(store, decided["folders"]["select"]).json("funnel.json")
    yield f"kept     {funnel['kept']:,} of {funnel['planned']:,}"
    for step in funnel["steps"]:
        if step["dropped"]:
            yield f"  {step['name']:<24} {step['dropped']:>12,}"


def _result(store: Store, sample: float | None, decided: Json) -> str:
    """The path or URL of the result, with notes where parts are missing or the decisions are newer."""
    if not store.exists(manifest_name(sample)):
        return "none"
    manifest = store.read_json(manifest_name(sample))
    missing, earlier = manifest["missing_parts"], manifest["folders"]["select"] != decided["folders"]["select"]
    notes = [f"{counted(len(missing), 'part')} missing"] * bool(missing) + ["of earlier decisions"] * earlier
    return store.path(manifest["pack"]) + (f" ({', '.join(notes)})" if notes else "")


def _source(plan: Folder) -> Json:
    """The identity of the run for which a plan was made."""
    params: Json = plan.described()["params"]
    return params


def _parts(plan: Folder) -> int:
    return plan.marker().counts["parts"]
