"""The cluster file against the schema that Ray itself validates with, and against what the engine asks for."""

import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from packaging.specifiers import SpecifierSet

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


def test_every_node_type_names_its_image(cluster):
    """Without one Ray starts an image of its own, of Ubuntu 18.04, whose Python is too old."""
    types = cluster["available_node_types"]
    images = {name: node["node_config"]["ImageId"] for name, node in types.items()}
    # The parameter says which image it is in the cluster's region: an id would be of one region, and grow old.
    assert all(image.startswith("resolve:ssm:/aws/service/") and "24.04" in image for image in images.values())
    for name, node in types.items():
        assert ("nvidia-driver" in images[name]) == ("GPU" in node["resources"]), name


def test_the_pythons_of_nodes_and_image_are_supported(cluster):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    supported = SpecifierSet(project["requires-python"])
    named = re.findall(r"python(3\.\d+)", "\n".join(cluster["setup_commands"]))
    named += re.findall(r"^FROM python:(3\.\d+)", (ROOT / "infra" / "Dockerfile").read_text(), re.MULTILINE)
    # Ubuntu 24.04 has this one and no other.
    assert set(named) == {"3.12"}
    assert all(version in supported for version in named)
    # Which one a bare name is, the image would decide.
    assert not re.search(r"python3(?![.\d])", "\n".join(cluster["setup_commands"]))


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
