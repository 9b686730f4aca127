"""Ray clusters of several nodes on this machine: nodes that are started, end, and are killed (soak).

Ray's provider of fake nodes and its `ray stop` act on every Ray of the machine, so each cluster has process, mount and
network namespaces of its own.
"""

import pytest
import yaml
from helpers.namespaces import in_namespaces

pytestmark = pytest.mark.soak

LISTS = (
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


def config(node_types):
    """The file that Ray's own tests read, which is not in its wheel."""
    return {
        "cluster_name": "fake",
        "max_workers": 4,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
            **{
                name: {"node_config": {}, "min_workers": 0, "max_workers": 1, **kind}
                for name, kind in node_types.items()
            },
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in LISTS},
    }


GROWING = """
import dataclasses
import json
import subprocess
import sys
import time
import ray
from helpers.works import Silent, single
from curate.engine.ray import RayEngine
from curate.errors import UsageError
from curate.runs.booking import Booking, for_embed
from curate.runs.driver import drive
from curate.store import Store

folder = sys.argv[1]
start = ["ray", "start", "--head", "--num-cpus=2", "--port=6379", "--include-dashboard=false"]
subprocess.run([*start, f"--autoscaling-config={folder}/cluster.yaml"], check=True, stdout=subprocess.DEVNULL)


def gpus():
    return sum(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"])


told = []
engine = RayEngine("127.0.0.1:6379", tell=told.append)
# The autoscaler's first report.
time.sleep(5)
report = {"before": gpus()}
fetch = dataclasses.replace(single(Store(folder + "/fetch"), "double", range(6)), name="fetch", processes=2)
embed = single(Store(folder + "/embed"), "shows_gpu", range(6), log=folder + "/log", die=[])
booking = Booking(gpus=None, default_count=for_embed, section="workers.embed")
embed = dataclasses.replace(embed, name="embed", label="embed l14", after=("fetch",), processes=None, booking=booking)
assert drive([fetch, embed], engine, Silent()) == {"fetch": {}, "embed": {}}
report["during"] = gpus()
report["shown"] = sorted({line.split()[1] for line in open(folder + "/log")})
deadline = time.monotonic() + 90
while gpus() and time.monotonic() < deadline:
    time.sleep(1)
report["after"] = gpus()
refused = dataclasses.replace(embed, name="refused", after=(), booking=dataclasses.replace(booking, gpus=8.0))
refused = dataclasses.replace(refused, outputs=single(Store(folder + "/refused"), "double", range(2)).outputs)
begun = time.monotonic()
try:
    drive([refused], engine, Silent())
except UsageError as error:
    report["refused"] = str(error)
report["within"] = time.monotonic() - begun
report["told"] = told
engine.close()
subprocess.run(["ray", "stop", "--force"], check=True, stdout=subprocess.DEVNULL)
print(json.dumps(report))
"""

REFUSED = (
    "workers.embed: a worker of refused reserves 1 CPU and 8 GPUs, and the cluster has no such node and starts none"
)


@pytest.mark.parametrize("is_known", [True, False], ids=["types known", "types unknown"])
def test_a_gpu_node_appears_when_embed_needs_it_and_goes(tmp_path, is_known):
    content = yaml.safe_dump(config({"gpu": {"resources": {"CPU": 2, "GPU": 1}}}))
    (tmp_path / "cluster.yaml").write_text(content)
    if is_known:
        (tmp_path / "ray_bootstrap_config.yaml").write_text(content)
    report = in_namespaces(tmp_path, GROWING, AUTOSCALER_UPDATE_INTERVAL_S="1", RAY_FAKE_CLUSTER="1")
    assert (report["before"], report["during"], report["after"]) == (0, 1, 0)
    assert report["shown"] == ["0"], "the worker has a GPU"
    assert report["refused"] == REFUSED
    assert report["within"] < 60


def test_embed_computes_on_cpus_where_no_gpu_node_comes(tmp_path):
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(config({"cpu": {"resources": {"CPU": 2}}})))
    report = in_namespaces(tmp_path, GROWING, AUTOSCALER_UPDATE_INTERVAL_S="1", RAY_FAKE_CLUSTER="1")
    assert report["during"] == 0
    assert report["told"][:2] == [
        "embed l14: waits for a node with 1 CPU and 1 GPU",
        "embed l14: the cluster has no GPU and starts none; it computes on CPUs",
    ]


KILLED = """
import dataclasses
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from ray.cluster_utils import Cluster
from helpers.works import Silent, single
from curate.engine.ray import RayEngine
from curate.errors import CurateError
from curate.runs.driver import drive
from curate.store import Store

folder = sys.argv[1]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1, resources={"curate_slow": 1})
results = []


class Watching(Silent):
    def advance(self, name, result):
        results.append([result.unit, result.status, result.error])


def kill():
    log = Path(folder, "log")
    while not (log.exists() and "began 1" in log.read_text()):
        time.sleep(0.1)
    cluster.remove_node(node, allow_graceful=False)
    # By a process of its own, as `add_node` sets handlers of signals, which only the main thread can.
    another = ["ray", "start", f"--address={cluster.address}", "--num-cpus=1", '--resources={"curate_slow": 1}']
    subprocess.run(another, check=True, stdout=subprocess.DEVNULL)


engine = RayEngine(cluster.address)
work = single(Store(folder + "/run"), "slow", range(3), log=folder + "/log", seconds={"1": 5})
work = dataclasses.replace(work, name="slow")
threading.Thread(target=kill).start()
aside = drive([work], engine, Watching())
engine.close()
cluster.shutdown()
print(json.dumps({"aside": aside, "results": results, "done": sorted(work.done())}))
"""


def test_a_killed_node_does_not_count_against_its_part(tmp_path):
    report = in_namespaces(tmp_path, KILLED)
    assert report["aside"] == {"slow": {}}
    assert report["done"] == [0, 1, 2]
    lost = [result for result in report["results"] if result[1] != "done"]
    # Ray may place the next actor on the dead node, too, before it notices.
    assert {(unit, status) for unit, status, _ in lost} == {(1, "lost")}, report["results"]
    assert not any("\n" in error for _, _, error in lost)


def test_nodes_that_do_not_come_back_end_the_run_with_a_line(tmp_path):
    script = KILLED.replace("    subprocess.run(another", "    return\n    subprocess.run(another")
    script = script.replace("aside = drive([work], engine, Watching())", ENDS)
    report = in_namespaces(tmp_path, script)
    assert report == {
        "error": "slow: the nodes with 1 CPU and the resource curate_slow are gone, and the cluster has no other and "
        "starts none; once it has one, the same command continues from here",
        "code": 4,
    }


ENDS = """
try:
    drive([work], engine, Watching())
except CurateError as error:
    report = {"error": str(error), "code": error.exit_code}
engine.close()
cluster.shutdown()
print(json.dumps(report))
sys.exit()
"""


MEMORY = """
import json
import sys
from helpers.works import Silent, single
from curate.engine.ray import RayEngine
from curate.runs.driver import drive
from curate.store import Store

folder = sys.argv[1]
results = []


class Watching(Silent):
    def advance(self, name, result):
        results.append([result.status, result.error])


engine = RayEngine(cpus=1)
work = single(Store(folder + "/run"), "slow", range(1), seconds={"0": 60})
aside = drive([work], engine, Watching())
engine.close()
print(json.dumps({"aside": aside, "results": results}))
"""


def test_a_worker_that_rays_memory_monitor_ends_counts(tmp_path):
    environment = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    report = in_namespaces(tmp_path, MEMORY, **environment)
    assert [status for status, _ in report["results"]] == ["died", "died"]
    assert "running low on memory" in report["aside"]["out"]["0"]


HEADLESS = """
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from helpers.works import Silent, single
from curate.engine.ray import RayEngine
from curate.errors import ClusterFault
from curate.runs.driver import drive
from curate.store import Store

folder = sys.argv[1]
start = ["ray", "start", "--head", "--num-cpus=1", "--port=6379", "--include-dashboard=false"]
subprocess.run(start, check=True, stdout=subprocess.DEVNULL)


def kill():
    log = Path(folder, "log")
    while not (log.exists() and "began 0" in log.read_text()):
        time.sleep(0.1)
    subprocess.run(["pkill", "-KILL", "gcs_server"], check=True)


engine = RayEngine("127.0.0.1:6379")
work = single(Store(folder + "/run"), "slow", range(1), log=folder + "/log", seconds={"0": 600})
threading.Thread(target=kill).start()
try:
    drive([work], engine, Silent())
except ClusterFault as error:
    report = {"error": str(error), "code": error.exit_code}
engine.close()
print(json.dumps(report))
"""


def test_a_head_that_goes_away_ends_the_run_with_a_line(tmp_path):
    report = in_namespaces(tmp_path, HEADLESS)
    assert report["error"].startswith("the head of the Ray cluster at 127.0.0.1:6379 has not answered for 2")
    assert report["error"].endswith("(Connection refused); once it is back, the same command continues from here")
    assert report["code"] == 4
