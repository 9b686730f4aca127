"""The cluster file against the schema that Ray itself validates with, and against what the engine asks for."""

import json
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml

from curate import recipe

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cluster():
    return yaml.safe_load((ROOT / "infra" / "aws-cluster.yaml").read_text())


@pytest.fixture
def schema():
    return json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


def test_the_cluster_file_fits_rays_schema(cluster, schema):
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]


def test_the_schema_would_notice(cluster, schema):
    cluster["available_node_types"]["fetch"]["resources"]["CPU"] = "eight"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster, schema)


def test_fetch_is_on_cpu_spot_nodes_and_embed_on_gpu_spot_nodes(cluster):
    types = cluster["available_node_types"]
    assert types["fetch"]["resources"]["curate_fetch"]
    assert "GPU" not in types["fetch"]["resources"]
    assert types["embed"]["resources"]["GPU"] == 1
    for name in ("fetch", "embed"):
        assert types[name]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    for node in types.values():
        assert node["node_config"]["IamInstanceProfile"]["Name"]
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_no_keys_stand_in_infra():
    for path in (ROOT / "infra").iterdir():
        text = path.read_text().lower()
        assert "aws_secret" not in text
        assert "akia" not in text


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines" / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_that_come_along_hold(path):
    if path.stem == "rescore":  # pipelines/rescore.py adds the places, and every pair is kept
        assert recipe.load(path, ["source={paths: [a.tar], kind: samples}", "output=scored"]).select == []
    else:
        assert recipe.load(path).select
