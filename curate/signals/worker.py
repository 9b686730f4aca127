"""The signals pass: computes the columns of every missing scorer for a part, each in the scorer's own folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import BrokenResult
from curate.signals.contract import Signal, Task, folder_of
from curate.signals.registry import KINDS
from curate.store import Inputs, Outputs


def open_worker(settings: Mapping[str, Any]) -> "SignalsWorker":
    """Returns a worker of the signals pass.

    Args:
        settings: `scorers`: by scorer name the result of `Scorer.settings`; `endpoint`: the S3 server, or None for AWS.

    Raises:
        RecipeError: there is no kind of that name: the package that brings it is not installed on this machine.
    """
    scorers = {}
    for name, stored in settings["scorers"].items():
        kind = KINDS.find(stored["kind"])
        keys = None if kind.keys is None else kind.keys.model_validate(stored["keys"])
        scorers[name] = Opened(kind, keys, stored["learned"], stored["embeddings"], stored["directions"])
    return SignalsWorker(scorers, settings.get("endpoint"))


@dataclass(frozen=True)
class Opened:
    """A scorer in a worker: its kind, its keys, what `learn` returned, and the short names of the folders it reads."""

    kind: Signal[Any]
    keys: Any
    learned: Mapping[str, Any]
    embeddings: str | None
    directions: str | None


@dataclass(frozen=True)
class SignalsWorker:
    """Computes columns of parts."""

    scorers: Mapping[str, Opened]
    endpoint: str | None

    def __call__(self, part: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        """Writes the `signals-<scorer>` in `outputs` for one part.

        Raises:
            BrokenResult: a kind returns other columns than it declares, or another number of rows.
        """
        plan = inputs["plan"].table("pairs.parquet", part, ["pair_id", "image_id", "caption", "repeated"])
        pairs = plan.filter(pc.invert(plan["repeated"]))
        for name, opened in self.scorers.items():
            if output := outputs.get(f"signals-{name}"):
                embeddings, directions = folder_of(inputs, opened.embeddings), folder_of(inputs, opened.directions)
                task = Task(name, opened.keys, opened.learned, part, pairs, embeddings, directions, self.endpoint)
                output.put_table("pairs.parquet", _table(pairs, opened.kind.columns(name), opened.kind.score(task)))
                output.counts.update(pairs=len(pairs))


def _table(pairs: pa.Table, declared: Mapping[str, pa.DataType], scored: Mapping[str, pa.Array]) -> pa.Table:
    if set(scored) != set(declared) or any(len(column) != len(pairs) for column in scored.values()):
        given = {name: len(column) for name, column in scored.items()}
        raise BrokenResult(f"a signal wrote the columns {given} for {len(pairs)} pairs; it declares {list(declared)}")
    schema = pa.schema([pairs.schema.field("pair_id"), *declared.items()])
    return pa.table({"pair_id": pairs["pair_id"], **scored}, schema=schema)
