"""The report pass: reads the small tables of a finished run and writes one HTML page."""

from collections.abc import Callable, Mapping
from typing import Any

from curate.columns import PairColumns
from curate.report.page import Settings, render
from curate.store import Inputs, Outputs


def open_worker(settings: Mapping[str, Any]) -> Callable[[int, Inputs, Mapping[str, Outputs]], None]:
    """Returns the worker of the only unit, `curate.store.WHOLE`.

    Args:
        settings: the fields of `curate.report.page.Settings`; `columns` as `PairColumns.to_json` gives them.
    """
    fixed = Settings(**{**settings, "columns": PairColumns.from_json(settings)})

    def work(unit: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:  # noqa: ARG001
        page = render(fixed, inputs)
        # The page shows times, so two drivers write different bytes, and each needs a file of its own.
        name = f"index.{outputs['report'].attempt}.html"
        outputs["report"].put("index.html", page.encode(), name=name)

    return work
