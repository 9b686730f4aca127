"""Which decisions of a run are the newest: what `status` and `explain` go by, whether or not a result followed.

`decided.json` names the folders of the run that select was last done for, as `manifest.json` does for the last run
that has a result. A sample has a file of its own, which is there, empty, from the sample's beginning.
"""

import json

from curate.errors import UsageError
from curate.runs.options import manifest_name
from curate.store import Json, Store

_STEM = "decided"


def begin(store: Store, sample: float | None) -> None:
    """Makes a sample known, so that whoever asks for it is not told that there is none."""
    if sample is not None:
        store.create(_name(sample), b"{}\n")


def record(store: Store, sample: float | None, folders: Json) -> None:
    """Says which run was decided on last."""
    store.put(_name(sample), (json.dumps(folders, sort_keys=True, indent=1) + "\n").encode())


def newest(store: Store, sample: float | None) -> Json:
    """The folders of the newest decisions, as `record` was given them; empty where there are none yet.

    Raises:
        UsageError: that sample was never run; names those that were.
    """
    found = store.read_json(_name(sample)) if store.exists(_name(sample)) else None
    if found:
        return found
    if store.exists(manifest_name(sample)):
        return store.read_json(manifest_name(sample))
    if found is None and sample is not None:
        raise UsageError(f"{store.url}: no sample {sample:g} here; samples: {', '.join(_samples(store)) or 'none'}")
    return {}


def _name(sample: float | None) -> str:
    return f"{_STEM}.json" if sample is None else f"{_STEM}-sample-{sample:g}.json"


def _samples(store: Store) -> list[str]:
    before, after = _name(0).split("0")
    return [name.removeprefix(before).removesuffix(after) for name in store.names("") if name.startswith(before)]
