"""The account of a search for near duplicates; it needs no library, as searches are also measured by themselves."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Account:
    """The account of a search: every pair of a tile is either compared or excluded by one bound.

    Attributes:
        compared: pairs whose exact similarity was computed.
        excluded: by bound, the pairs that it excluded; each pair by the first that does.
        bounds: by bound, its constants.
    """

    compared: int = 0
    excluded: dict[str, int] = field(default_factory=dict)
    bounds: dict[str, dict[str, Any]] = field(default_factory=dict)

    def exclude(self, bound: str, pairs: int) -> None:
        """Adds pairs that a bound excluded."""
        self.excluded[bound] = self.excluded.get(bound, 0) + pairs

    @property
    def pairs(self) -> int:
        """All pairs."""
        return self.compared + sum(self.excluded.values())

    def to_json(self) -> dict[str, Any]:
        """The account in its stored form."""
        return asdict(self)
