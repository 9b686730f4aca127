"""The signals pass: every missing scorer's columns for a part, each in a folder of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.signals import registry
from curate.signals.task import Task
from curate.store import Inputs, Outputs


def open_worker(settings: Mapping[str, Any]) -> "SignalsWorker":
    """A worker of the signals pass.

    Args:
        settings: `scorers`: parameters by name of the scorer.

    Raises:
        RecipeError: there is no scorer of that name.
    """
    scorers = {name: (registry.find(name), params) for name, params in settings["scorers"].items()}
    return SignalsWorker(scorers)


@dataclass(frozen=True)
class SignalsWorker:
    """Computes columns of parts."""

    scorers: Mapping[str, tuple[registry.Scorer, Mapping[str, Any]]]

    def __call__(self, part: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        """Writes those `signals-<scorer>` that are in `outputs`, for one part."""
        plan = inputs["plan"].table("pairs.parquet", part, ["pair_id", "image_id", "caption", "repeated"])
        pairs = plan.filter(pc.invert(plan["repeated"]))
        for name, (scorer, params) in self.scorers.items():
            if output := outputs.get(f"signals-{name}"):
                found = scorer.score(Task(name, params, part, inputs, pairs))
                schema = pa.schema([pairs.schema.field("pair_id"), *scorer.columns(name, params).items()])
                output.put_table("pairs.parquet", pa.table({"pair_id": pairs["pair_id"], **found}, schema=schema))
                output.counts.update(pairs=len(pairs))
