"""The account of a search for near duplicates; it needs no library, as searches are also measured by themselves."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Account:
    """The account of a search: every pair of a tile is compared, excluded by one bound, or left to the decision.

    Attributes:
        compared: pairs whose exact similarity was computed.
        excluded: by bound, the pairs that it excluded; each pair by the first that does.
        bounds: by bound, its constants; several of them where several sets of a tile were searched.
        deferred: pairs of dense nodes, which the decision compares (`curate.dedup.dense`).
    """

    compared: int = 0
    excluded: dict[str, int] = field(default_factory=dict)
    bounds: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    deferred: int = 0

    def exclude(self, bound: str, pairs: int) -> None:
        """Adds pairs that a bound excluded."""
        self.excluded[bound] = self.excluded.get(bound, 0) + pairs

    def state(self, bound: str, **constants: Any) -> None:
        """Adds the constants of a bound."""
        stated = self.bounds.setdefault(bound, [])
        if constants not in stated:
            stated.append(constants)

    @property
    def pairs(self) -> int:
        """All pairs."""
        return self.compared + sum(self.excluded.values()) + self.deferred

    def to_json(self) -> dict[str, Any]:
        """The account in its stored form."""
        return asdict(self)
