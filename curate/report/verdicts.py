"""How often a run of the demo was right, as `curate.demo.truth.Evaluation` counts it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class StepVerdict:
    """What one reason dropped, judged: `dropped` = `right` + `wrong` + `may` (either would do)."""

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
        """Pairs that had to stay and did."""
        return self.kept_right

    @property
    def must_drop_dropped(self) -> int:
        """Pairs that had to go and did."""
        return self.must_drop - self.kept_wrong


def read_verdicts(evaluation: Mapping[str, Any] | None) -> Verdicts | None:
    """The evaluation from its JSON form (`dataclasses.asdict`); None for a run whose truth nobody knows."""
    if evaluation is None:
        return None
    steps = {name: _pick(StepVerdict, step) for name, step in evaluation["steps"].items()}
    return _pick(Verdicts, {**evaluation, "steps": steps})


def _pick(kind: type[_T], given: Mapping[str, Any]) -> _T:
    """The fields of a dataclass out of a mapping that also holds what can be derived from them."""
    return kind(**{known.name: given[known.name] for known in fields(kind) if known.name in given})  # type: ignore[arg-type]
