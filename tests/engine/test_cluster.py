"""What a cluster has and can have, read from Ray's reports and from the file of `ray up`."""

from pathlib import Path

import pytest
import yaml

from curate.engine.cluster import Cluster, Demand, NodeType, node_types
from curate.runs.booking import Resources, for_embed, for_fetch, for_pack, for_signals

HEAD = {"CPU": 8.0, "memory": 30e9}
AWS = yaml.safe_load((Path(__file__).parents[2] / "infra" / "aws-cluster.yaml").read_text())


def report(**changes):
    return {"autoscaler_report": {"active_nodes": {"head": 1}, "pending_nodes": [], "pending_launches": {}, **changes}}


def test_the_cluster_of_infra_can_have_gpus_while_only_its_head_runs():
    cluster = Cluster([HEAD], list(node_types(AWS)), report())
    assert cluster.can_have("GPU")
    assert cluster.can_have("curate_fetch")
    assert not cluster.can_have("curate_signals")
    assert not cluster.has_unknown_node_types()
    assert cluster.resources() == Resources(cpus=8 * (32 + 8), gpus=8)
    assert cluster.can_serve(Demand(8, 1))
    assert cluster.can_serve(Demand(1, memory=100)), "the file does not say how much memory its machines have"
    assert cluster.can_serve(Demand(1, label="curate_fetch"))
    assert not cluster.can_serve(Demand(1, 1, label="curate_fetch"))
    assert not cluster.can_serve(Demand(9))


def test_a_type_without_nodes_serves_nothing():
    cluster = Cluster([HEAD], [NodeType({"CPU": 64, "GPU": 8}, 0)])
    assert not cluster.can_serve(Demand(16))
    assert not cluster.can_have("GPU")


@pytest.mark.parametrize(
    ("demand", "fits"), [(Demand(8), True), (Demand(8.5), False), (Demand(1, memory=30), True), (Demand(1, 0.5), False)]
)
def test_a_worker_fits_on_one_node_only(demand, fits):
    assert Cluster([HEAD, HEAD]).can_serve(demand) == fits


@pytest.mark.parametrize(
    ("changes", "grows"),
    [
        ({}, False),
        ({"pending_launches": {"gpu": 1}}, True),
        ({"pending_launches": {"gpu": 0}}, False),
        ({"pending_nodes": [["10.0.0.7", "gpu", "setting-up"]]}, True),
        ({"node_availability_summary": {"node_availabilities": {"gpu": {"is_available": False}}}}, True),
        ({"node_availability_summary": {"node_availabilities": {"gpu": {"is_available": True}}}}, False),
        ({"node_availability_summary": {"node_availabilities": {}}}, False),
    ],
)
def test_a_cluster_grows_while_nodes_are_started(changes, grows):
    assert Cluster([HEAD], status=report(**changes)).is_growing() == grows


def test_without_a_report_nothing_grows():
    for status in (None, {}, {"autoscaler_report": None}):
        assert not Cluster([HEAD], status=status).is_growing()
        assert not Cluster([HEAD], status=status).has_unknown_node_types()


def test_node_types_are_unknown_where_an_autoscaler_does_not_publish_them():
    assert Cluster([HEAD], status=report()).has_unknown_node_types()
    # So Ray lists the nodes of a cluster that does not grow.
    assert not Cluster([HEAD], status=report(active_nodes={"node_8f1c": 1})).has_unknown_node_types()
    assert not Cluster([HEAD], [NodeType({"CPU": 1}, 1)], report()).has_unknown_node_types()
    assert not Cluster([HEAD], status=report(), can_grow=False).has_unknown_node_types()


@pytest.mark.parametrize(
    ("demand", "text"),
    [
        (Demand(1), "1 CPU"),
        (Demand(0.25, 8), "0.25 CPUs and 8 GPUs"),
        (Demand(2, 1, 900, "curate_embed"), "2 CPUs, 1 GPU, 900 GB of memory and the resource curate_embed"),
    ],
)
def test_a_demand_as_text(demand, text):
    assert str(demand) == text


@pytest.mark.parametrize(
    ("cpus", "gpus", "counts"),
    [
        (1, 0, (1, 1, 2, 1)),
        (2, 0, (1, 1, 2, 2)),
        (16, 1, (8, 1, 4, 16)),
        (64, 8, (16, 8, 16, 64)),
        (96, 0, (16, 24, 24, 96)),
    ],
)
def test_the_default_numbers_of_workers(cpus, gpus, counts):
    available = Resources(cpus, gpus)
    assert tuple(count(available) for count in (for_fetch, for_embed, for_signals, for_pack)) == counts
