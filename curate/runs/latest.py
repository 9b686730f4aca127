"""The newest decisions of a run, which `status`, `explain` and `duplicates` read, whether or not a result followed.

`decided.json` names the pass folders of the run for which select was done last; `manifest.json` does the same for the
last run with a result. A sample has a file of its own, created empty when the sample starts.
"""

from curate.errors import UsageError
from curate.runs.options import manifest_name
from curate.store import Json, Store

_STEM = "decided"


def begin(store: Store, sample: float | None) -> None:
    """Creates the empty record of a sample, so that commands find the sample before its decisions are made."""
    if sample is not None:
        store.create(name(sample), b"{}\n")


def record(store: Store, sample: float | None, folders: Json) -> None:
    """Stores the pass folders of the newest decisions."""
    store.put_json(name(sample), folders)


def newest(store: Store, sample: float | None) -> Json:
    """Returns the pass folders that `record` stored last, or the manifest; empty where nothing is decided yet.

    Raises:
        UsageError: this sample was never run; the message lists the samples that were.
    """
    recorded = store.read_json(name(sample)) if store.exists(name(sample)) else None
    if recorded:
        return recorded
    if store.exists(manifest_name(sample)):
        return store.read_json(manifest_name(sample))
    if recorded is None and sample is not None:
        raise UsageError(f"{store.url}: no sample {sample:g} here; samples: {', '.join(_samples(store)) or 'none'}")
    return {}


def name(sample: float | None) -> str:
    """The name of the record of a sample, or of the whole run (None)."""
    return f"{_STEM}.json" if sample is None else f"{_STEM}-sample-{sample:g}.json"


def _samples(store: Store) -> list[str]:
    before, after = name(0).split("0")
    found = (file for file in store.names("") if file.startswith(before))
    return [file.removeprefix(before).removesuffix(after) for file in found]
