"""The registry of step kinds; parses and checks the steps of a funnel, and names the columns that they read."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter

from curate.errors import UsageError
from curate.registry import Registry
from curate.select.steps.contract import Step, StepKind
from curate.store import Json

STEPS: Registry[StepKind[Any]] = Registry(
    "step kind",
    StepKind,  # type: ignore[type-abstract] # its subclasses' instances are held
    package="curate.select.steps",
    attribute="STEP",
    group="curate.steps",
)


def read(steps: Sequence[Mapping[str, Any]]) -> list[Step[Any]]:
    """A recipe's steps from their JSON, in which keys at their defaults may be missing.

    Raises:
        UsageError: the kind of a step is not installed.
    """
    return [_read(number, step) for number, step in enumerate(steps)]


def _read(number: int, step: Mapping[str, Any]) -> Step[Any]:
    for name, kind in STEPS.items():
        if step.get(name) is not None:
            keys = TypeAdapter(kind.keys).validate_python(step[name])
            beside = {key: step.get(key, field.default) for key, (_, field) in kind.beside.items()}
            return Step(number, step["drop"], kind, keys, beside)
    named = ", ".join(sorted(name for name, value in step.items() if value is not None and name != "drop"))
    raise UsageError(
        f"select step {step['drop']!r} needs a kind of step that is not installed here ({named}); install the package "
        "that brings it, on every machine"
    )


def check(steps: Sequence[Step[Any]], columns: Mapping[str, pa.DataType]) -> None:
    """Checks a funnel against the columns that its run will have.

    Args:
        steps: the funnel.
        columns: their types in predicates (`curate.columns.PairColumns.types`).

    Raises:
        RecipeError: the first fault, in one line that names the step.
    """
    for step in steps:
        step.kind.check(step, columns)


def wanted(steps: Sequence[Step[Any]], columns: Sequence[str]) -> list[str]:
    """The columns that the steps read, as they are spelt in `columns`, sorted."""
    return sorted({name for step in steps for name in step.kind.columns(step, columns)})


def versions(steps: Sequence[Step[Any]]) -> Json:
    """The part of a fingerprint that depends on the steps' kinds, by kind.

    A kind of this package contributes its version, unless that is 1; a kind of another package its package and version.
    """
    found: Json = {}
    for name in {step.kind.name for step in steps}:
        package, version = STEPS.package(name), STEPS[name].version
        if package:
            found[name] = {"package": package, "version": version}
        elif version != 1:
            found[name] = version
    return found
