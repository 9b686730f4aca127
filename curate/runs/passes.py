"""Passes: their declarations, and their folders, each named by a fingerprint of everything its content depends on.

A room declares its passes (`Declaration`); `curate.layout` assigns their folders. The fingerprint covers the name, the
version, the folders that the pass reads, and the recipe keys that its content depends on: those that differ from their
defaults, so that a release that adds a key changes no fingerprint. It never covers paths, the engine or the number of
workers.

Settings that can change the last digits of a result, but nothing else in it (`Declaration.how`: threads, batch size),
are not in the fingerprint either. `pass.json` records them at the first start of a pass; every later start uses them.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from curate.checksums import json_bytes
from curate.runs.sample import Sample
from curate.store import Folder, Inputs, Json, Store


def canonical(content: Any) -> str:
    """JSON with sorted keys and no spaces: equal contents give equal text."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


@dataclass(frozen=True)
class Declaration:
    """A pass as its room declares it.

    Attributes:
        name: the short name by which others read it, unique in a run (`embed-l14`).
        stage: the value of `curate run --until` that includes it (`embed`).
        version: raised when the pass would write other content from the same inputs.
        depends: everything that its content depends on besides `reads`; JSON-able, without keys at their defaults.
        reads: short names of the passes whose content its own depends on.
        how: settings that may change last digits; those recorded at the pass's first start are used.
        by_part: a unit is a part; else the pass has units of its own, or only the whole.
        is_decided_on: whether `select` reads it.
        folder: the folder's name before the fingerprint; by default the short name.
        is_result: the folder is the result that users take away, so the run's bookkeeping is kept outside it.
    """

    name: str
    stage: str
    version: int
    depends: Json = field(default_factory=dict)
    reads: Sequence[str] = ()
    how: Json = field(default_factory=dict)
    by_part: bool = False
    is_decided_on: bool = False
    folder: str = ""
    is_result: bool = False


@dataclass(frozen=True)
class Pass:
    """A pass with its folder."""

    folder: Folder
    declared: Declaration
    reads: tuple[Folder, ...]

    @classmethod
    def of(
        cls,
        store: Store,
        declared: Declaration,
        reads: Iterable[Folder] = (),
        rounds: Mapping[str, int] = MappingProxyType({}),
    ) -> "Pass":
        """A pass with its folder, whose name contains the fingerprint.

        Args:
            store: the run's root.
            declared: its declaration.
            reads: the folders that it reads.
            rounds: by path of a folder, how often its units came out different when they were done again
                (`curate.runs.healing`). A pass by part does such a part again; another pass gets another fingerprint.
        """
        before = tuple(sorted(reads, key=lambda folder: folder.path))
        name = declared.folder or declared.name
        depends = {
            "name": name,
            "version": declared.version,
            "params": declared.depends,
            "upstream": [
                folder.path + (f"+{rounds[folder.path]}" if rounds.get(folder.path) and not declared.by_part else "")
                for folder in before
            ],
        }
        fingerprint = hashlib.blake2b(canonical(depends).encode(), digest_size=6).hexdigest()
        return cls(Folder(store, name, fingerprint, declared.is_result), declared, before)

    def settle(self) -> Json:
        """Writes the folder's pass.json unless it exists; returns the settings (`how`) recorded in it."""
        content = {
            "name": self.folder.name,
            "version": self.declared.version,
            "params": self.declared.depends,
            "upstream": [folder.path for folder in self.reads],
            "how": self.declared.how,
            "by_part": self.declared.by_part,
        }
        store, name = self.folder.store, f"{self.folder.bookkeeping}/pass.json"
        if not store.exists(name):
            store.create(name, json_bytes(content, indent=1))
        return self.begun_with() or self.declared.how

    def begun_otherwise(self) -> str:
        """Returns one line that names the recorded settings that differ from the recipe's; empty where none do."""
        recorded = self.begun_with()
        changed = {name: new for name, new in self.declared.how.items() if recorded and recorded.get(name) != new}
        if not changed:
            return ""
        kept = ", ".join(f"{name} {recorded.get(name)} instead of {new}" for name, new in changed.items())
        return f"{self.declared.name} keeps the settings of its first start ({kept}); new passes use the new values"

    def begun_with(self) -> Json:
        """The settings (`how`) recorded at the pass's first start; empty where it has not started or has none."""
        store, name = self.folder.store, f"{self.folder.bookkeeping}/pass.json"
        recorded: Json = store.read_json(name).get("how", {}) if self.declared.how and store.exists(name) else {}
        return recorded


@dataclass(frozen=True)
class Layout:
    """Every pass of a run by its short name, and the parts that the run covers.

    Attributes:
        passes: in the order in which they were declared.
        n_parts: the number of parts of the plan.
        parts: the parts that the run covers.
        missing: parts that are set aside and left out by the global passes; they are not in `parts`.
        rows: rows of a part, on average.
        sample: the sample of `--sample`; None where all rows are covered.
    """

    passes: Mapping[str, Pass]
    n_parts: int
    parts: tuple[int, ...]
    missing: tuple[int, ...] = ()
    rows: float = 0.0
    sample: Sample | None = None

    def inputs(self, *names: str) -> Inputs:
        """The folders that the named passes read, over the covered parts."""
        read = dict.fromkeys(name for of in names for name in self.passes[of].declared.reads)
        return Inputs({name: self.passes[name].folder for name in read}, self.parts)

    def of(self, stage: str) -> dict[str, Pass]:
        """The passes of a stage (`Declaration.stage`) by short name, in the order in which they were declared."""
        return {name: pass_ for name, pass_ in self.passes.items() if pass_.declared.stage == stage}

    @property
    def n_rows(self) -> float:
        """The rows of the covered parts, about."""
        return self.rows * len(self.parts)

    @property
    def columns(self) -> list[str]:
        """The short names of the passes whose columns can be decided on."""
        return [name for name, pass_ in self.passes.items() if pass_.declared.is_decided_on]
