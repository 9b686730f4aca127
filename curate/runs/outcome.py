"""The outcome of a run, as far as it went."""

from dataclasses import dataclass, field

from curate.errors import RunIncomplete
from curate.runs.passes import Layout
from curate.store import Json, Store, key


@dataclass
class Outcome:
    """The outcome of a run; the fields of a pass that was not reached are empty."""

    store: Store
    missing: list[int] = field(default_factory=list)
    funnel: Json | None = None
    evaluation: Json | None = None
    report: str | None = None
    manifest: Json | None = None
    shortfall: str = ""
    """The reason why there is no result although every pass before `pack` is done; else empty."""
    is_unchanged: bool = False
    """Whether the newest round of fetching recovered no image, so that later passes read the round before it."""

    @property
    def result(self) -> str | None:
        """Path or URL of the result's folder; None where there is no result."""
        return self.store.path(str(self.manifest["pack"])) if self.manifest else None

    def check_missing(self, layout: Layout, *, allowed: bool) -> None:
        """Raises RunIncomplete where parts are set aside, unless the run may continue without them."""
        if not self.missing or allowed:
            return
        named = ", ".join(key(part) for part in self.missing[:5]) + (", …" if self.missing[5:] else "")
        raise RunIncomplete(
            f"{len(self.missing)} of {len(layout.parts)} parts are set aside ({named}); their tracebacks are in "
            f"{self.store.url}/*/failed. --retry-parts starts them again, --allow-missing continues without them"
        )
