"""`curate status`: what a run folder holds, from its markers; works while the run goes on."""

from collections.abc import Iterator

from curate.errors import StoreError, counted
from curate.store import WHOLE, Folder, Store, key


def lines(store: Store, manifest_name: str) -> Iterator[str]:
    """The state of every pass folder, and the funnel of the result of that manifest.

    Raises:
        StoreError: there is no run.
    """
    if not store.exists("run.json"):
        raise StoreError(f"{store.url} holds no run: there is no run.json in it")
    manifest = store.read_json(manifest_name) if store.exists(manifest_name) else {}
    current = {*manifest.get("folders", {}).values(), *manifest.get("rounds", [])}
    folders = [_folder(store, path) for path in store.folders() if store.exists(f"{path}/pass.json")]
    n_parts = next((_parts(folder) for folder in folders if folder.name == "plan" and folder.is_done()), None)
    yield f"run      {store.url}"
    yield f"parts    {n_parts if n_parts is not None else 'not planned yet'}"
    width = max((len(folder.path) for folder in folders), default=0)
    for folder in folders:
        units = folder.units()
        failed = store.names(f"{folder.path}/failed")
        count = len(units - {WHOLE})
        state = "done" if WHOLE in units else f"{count} of {n_parts} parts"
        state += f", {len(failed)} set aside" if failed else ""
        state += "" if folder.path in current or not manifest else "  (of another recipe or sample)"
        yield f"{folder.path:<{width}}  {state}"
        for name in failed:
            error = store.read_json(f"{folder.path}/failed/{name}")
            yield f"{'':<{width}}    {key(int(error['unit']))}: {error['error']}"
    if not manifest:
        yield "result   none yet"
        return
    missing = manifest["missing_parts"]
    yield f"result   {store.path(manifest['pack'])}" + (
        f" ({counted(len(missing), 'part')} missing)" if missing else ""
    )
    yield f"report   {store.path(manifest['folders']['report'])}/index.html"
    funnel = _folder(store, manifest["folders"]["select"]).json("funnel.json")
    yield f"kept     {funnel['kept']:,} of {funnel['planned']:,}"
    for step in funnel["steps"]:
        if step["dropped"]:
            yield f"  {step['name']:<24} {step['dropped']:>12,}"


def _folder(store: Store, path: str) -> Folder:
    name, _, fingerprint = path.rpartition("-")
    return Folder(store, name, fingerprint)


def _parts(plan: Folder) -> int:
    return plan.marker().counts["parts"]
