"""Reads how often the decisions of a demo run were right, as counted by `curate.demo.truth.Evaluation`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class StepVerdict:
    """The evaluation of one reason's dropped pairs: `dropped` = `right` + `wrong` + `may` (both are right)."""

    dropped: int
    right: int
    wrong: int
    may: int
    by_kind: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdicts:
    """The fields of the demo's evaluation, by the same names."""

    rows: int
    undecided: int
    kept_right: int
    kept_wrong: int
    kept_may: int
    must_keep: int
    must_drop: int
    missed: Mapping[str, int]
    groups: int
    groups_without: int
    groups_with_several: int
    steps: Mapping[str, StepVerdict]

    @property
    def must_keep_kept(self) -> int:
        """Pairs that had to be kept and were."""
        return self.kept_right

    @property
    def must_drop_dropped(self) -> int:
        """Pairs that had to be dropped and were."""
        return self.must_drop - self.kept_wrong


def read_verdicts(evaluation: Mapping[str, Any] | None) -> Verdicts | None:
    """Returns the evaluation from its JSON form (`dataclasses.asdict`); None for a run without a known truth."""
    if evaluation is None:
        return None
    steps = {name: _pick(StepVerdict, step) for name, step in evaluation["steps"].items()}
    return _pick(Verdicts, {**evaluation, "steps": steps})


def _pick(kind: type[_T], given: Mapping[str, Any]) -> _T:
    """Returns a dataclass from a mapping; keys of the mapping that are not its fields are ignored."""
    return kind(**{known.name: given[known.name] for known in fields(kind) if known.name in given})  # type: ignore[arg-type]
