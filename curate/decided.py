"""Which decisions of a run are the newest: what `status` and `explain` go by, whether or not a result followed.

`decided.json` names the folders of the run that select was last done for, as `manifest.json` does for the last run
that has a result. A sample has a file of its own.
"""

import json

from curate.options import manifest_name
from curate.store import Json, Store

_STEM = "decided"


def record(store: Store, sample: float | None, folders: Json) -> None:
    """Says which run was decided on last."""
    store.put(_name(sample), (json.dumps(folders, sort_keys=True, indent=1) + "\n").encode())


def newest(store: Store, sample: float | None) -> Json:
    """The folders of the newest decisions, as `record` was given them; empty where there are none yet."""
    if store.exists(_name(sample)):
        return store.read_json(_name(sample))
    if store.exists(manifest_name(sample)):
        return store.read_json(manifest_name(sample))
    return {}


def _name(sample: float | None) -> str:
    return f"{_STEM}.json" if sample is None else f"{_STEM}-sample-{sample:g}.json"
