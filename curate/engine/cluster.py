"""Describes what a Ray cluster has and can have, and tells whether one of its nodes can run a worker."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.runs.booking import Resources

LABEL_SHARE = 0.001
"""The amount of a custom resource that a worker reserves: enough to be placed on a node that offers it."""

_NODE_WITHOUT_TYPE = "node_"
"""Where Ray's autoscaler starts no nodes, it lists each node as a type of its own with this prefix."""


@dataclass(frozen=True)
class Demand:
    """The resources that one worker reserves on its node.

    Attributes:
        cpus: CPUs.
        gpus: GPUs.
        memory: gigabytes.
        label: a custom resource that its node has to offer; None: any node.
    """

    cpus: float
    gpus: float = 0.0
    memory: float = 0.0
    label: str | None = None

    @property
    def bytes(self) -> int:
        """The memory in bytes."""
        return int(self.memory * 1e9)

    def fits(self, node: Mapping[str, float], *, is_type: bool = False) -> bool:
        """Whether a node with these resources can run the worker when it is empty.

        Args:
            node: amounts by Ray's names: CPU, GPU, memory (bytes), custom resources.
            is_type: the amounts are those of a node type, which may leave out its memory.
        """
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.bytes}
        if self.label:
            wanted[self.label] = LABEL_SHARE
        if is_type and "memory" not in node:
            del wanted["memory"]
        return all(node.get(name, 0.0) >= amount for name, amount in wanted.items())

    def __str__(self) -> str:
        words = [f"{self.cpus:g} CPU{'' if self.cpus == 1 else 's'}"]
        if self.gpus:
            words.append(f"{self.gpus:g} GPU{'' if self.gpus == 1 else 's'}")
        if self.memory:
            words.append(f"{self.memory:g} GB of memory")
        if self.label:
            words.append(f"the resource {self.label}")
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


@dataclass(frozen=True)
class NodeType:
    """A type of node that an autoscaler can start: the resources of one node, and how many there may be."""

    resources: Mapping[str, float]
    most: int


@dataclass(frozen=True)
class Cluster:
    """A cluster at one moment.

    Attributes:
        nodes: the resources of each node that is alive.
        node_types: the types of nodes that the cluster can start; empty where they are not known.
        status: the last report of Ray's autoscaler; empty where there is none.
        can_grow: nodes may join; not so for a Ray that a run starts for itself.
    """

    nodes: Sequence[Mapping[str, float]]
    node_types: Sequence[NodeType] = ()
    status: Mapping[str, Any] | None = None
    can_grow: bool = True

    def resources(self) -> Resources:
        """Returns the CPUs and GPUs that the cluster has, or can have where its node types are known."""
        return Resources(self._amount("CPU"), self._amount("GPU"))

    def can_have(self, name: str) -> bool:
        """Whether a node offers this resource, or a node that can be started does."""
        return self._amount(name) > 0

    def can_serve(self, demand: Demand) -> bool:
        """Whether a node can run the worker, now or once its other workers have ended, or one that can be started."""
        started = [kind for kind in self.node_types if kind.most > 0]
        return any(demand.fits(node) for node in self.nodes) or any(
            demand.fits(kind.resources, is_type=True) for kind in started
        )

    def has_unknown_node_types(self) -> bool:
        """Whether an autoscaler can start nodes of types that are not known here."""
        if not self.can_grow or self.node_types:
            return False
        return any(name and not name.startswith(_NODE_WITHOUT_TYPE) for name in self._names_of_types())

    def is_growing(self) -> bool:
        """Whether nodes are being started, or could not be started and are tried again."""
        report = self._report()
        # A type whose nodes have all been started stays in the report: with the count 0, and as available.
        launches = any((report.get("pending_launches") or {}).values())
        tried = (report.get("node_availability_summary") or {}).get("node_availabilities") or {}
        unavailable = any(not kind["is_available"] for kind in tried.values())
        return any((launches, report.get("pending_nodes"), unavailable))

    def _amount(self, name: str) -> float:
        running = sum(node.get(name, 0.0) for node in self.nodes)
        possible = sum(kind.resources.get(name, 0.0) * kind.most for kind in self.node_types if kind.most)
        return max(running, possible)

    def _report(self) -> Mapping[str, Any]:
        return (self.status or {}).get("autoscaler_report") or {}

    def _names_of_types(self) -> set[str]:
        report = self._report()
        return {*(report.get("active_nodes") or {}), *(report.get("idle_nodes") or {})}


def node_types(config: Mapping[str, Any]) -> Iterator[NodeType]:
    """Yields the node types of a cluster's YAML file (`ray up`), without the head's."""
    for name, kind in (config.get("available_node_types") or {}).items():
        if name != config.get("head_node_type"):
            yield NodeType(kind.get("resources") or {}, kind.get("max_workers", config.get("max_workers", 0)))
