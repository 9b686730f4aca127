"""A Ray cluster whose machines share nothing but an S3 server: one is killed, one joins, the head restarts (soak).

Each machine is a set of namespaces: processes, mounts with a /tmp and /dev/shm of its own, a host name, and a network
with its own address, on a bridge. The whole is in namespaces of its own, too, so it needs root and touches nothing of
the machine that it runs on.
"""

import pytest
from helpers.namespaces import in_namespaces

pytestmark = pytest.mark.soak

SCRIPT = """
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from curate.demo.corpus import Corpus
from curate.demo.server import serve
from curate.store import Folder, Store

PAIRS, PART_SIZE, PORT = 120, 15, 8199
GATEWAY = "10.77.0.1"
folder = Path(sys.argv[1])
mark = 0


def sh(command):
    subprocess.run(command, shell=True, check=True)


class Machine:
    def __init__(self, number, ray):
        self.name, self.link = f"machine{number}", f"v{number}"
        sh(
            f"ip netns add {self.name} && ip link add v{number} type veth peer name eth0 netns {self.name}"
            f" && ip link set v{number} master bridge up && ip -n {self.name} addr add 10.77.0.{number}/24 dev eth0"
            f" && ip -n {self.name} link set eth0 up && ip -n {self.name} link set lo up"
        )
        web = f"{sys.executable} -m curate.demo.server --seed 0 --pairs {PAIRS} --port {PORT}"
        commands = [
            "mount -t tmpfs tmpfs /tmp",
            "mount -t tmpfs tmpfs /dev/shm",
            f"hostname {self.name}",
            "cd /tmp",
            f"({web} &)",
            f"exec ray start {ray} --node-ip-address=10.77.0.{number} --disable-usage-stats --block",
        ]
        self.log = folder / f"{self.name}.{time.monotonic()}"
        inside = ["unshare", "--pid", "--fork", "--mount", "--uts", "--mount-proc", "--kill-child"]
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, *inside, "sh", "-c", " && ".join(commands)],
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
            env={**os.environ, "HOME": "/tmp"},
        )
        wait_for(lambda: self.first(), 20)

    def first(self):
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return children[0] if children else None

    def busy(self):
        "The units that actors of this machine run."
        found = []
        ours = os.readlink(f"/proc/{self.first()}/ns/pid")
        for place in Path("/proc").iterdir():
            try:
                if place.name.isdigit() and os.readlink(place / "ns/pid") == ours:
                    title = (place / "cmdline").read_bytes().replace(bytes(1), b" ").decode().strip()
                    if title.startswith("ray::") and not title.startswith("ray::IDLE") and title[-1].isdigit():
                        found.append(title)
            except OSError:
                pass
        return found

    def run(self, *command):
        "Starts a command on this machine."
        return subprocess.Popen(
            ["nsenter", "-t", self.first(), "-m", "-p", "-n", "-u", "sh", "-c", 'cd /tmp && exec "$@"', "sh", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HOME": "/tmp"},
        )

    def kill(self):
        "As when its power goes: all processes at once, and the address answers no more."
        self.process.kill()
        self.process.wait()
        # The kernel deletes a namespace's link some time after the namespace.
        sh(f"ip link delete {self.link} && ip netns delete {self.name}")


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not (met := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
    return met


def command(output, *more):
    corpus = Corpus(0, PAIRS, PORT)
    sets = {
        "source.paths": ["s3://bucket/urls/*.parquet"],
        "output": output,
        "fetch.allow": corpus.addresses(),
        "part_size": PART_SIZE,
        "pack.shard_size": 20,
        "workers.fetch": {"count": 2},
        "workers.embed": {"count": 2, "cpus": 0.5},
        "workers.signals": {"count": 1, "cpus": 0.5},
    }
    recipe = Path(sys.modules["curate.demo.corpus"].__file__).with_name("recipe.yaml")
    options = [word for name, value in sets.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    return [sys.executable, "-m", "curate.commands.main", "run", str(recipe), *more, *options]


def result(output):
    store = Store(output)
    manifest = store.read_json("manifest.json")
    names = [info["name"] for info in manifest["result"]]
    return {name: hashlib.sha256(store.read(f"{manifest['pack']}/{name}")).hexdigest() for name in names}


def done(name):
    return len(list(folder.glob(f"s3/bucket/run/{name}-*/done/0*.json")))


sh("mount -t tmpfs tmpfs /run && ip link add bridge type bridge && ip addr add 10.77.0.1/24 dev bridge")
sh("ip link set bridge up && ip link set lo up")
(folder / "s3/bucket/urls").mkdir(parents=True)
for path in Corpus(0, PAIRS, PORT).write(folder / "web").urls:
    path.rename(folder / "s3/bucket/urls" / path.name)
keys = {"AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "SECRETKEY1234567", "AWS_DEFAULT_REGION": "us-east-1"}
os.environ |= {**keys, "AWS_ENDPOINT_URL": f"http://{GATEWAY}:8198"}
rclone = str(Path(sys.executable).with_name("rclone"))
auth = ["--auth-key", "AKIDTEST,SECRETKEY1234567"]
store = subprocess.Popen([rclone, "serve", "s3", "--addr", f"{GATEWAY}:8198", *auth, str(folder / "s3")])
head = ["--head --port=6379 --num-cpus=1 --include-dashboard=false", "--address=10.77.0.10:6379 --num-cpus=1"]
report = {}
try:
    time.sleep(2)
    with serve(Corpus(0, PAIRS, PORT)):
        subprocess.run(command(str(folder / "local"), "--engine", "local"), check=True, stdout=subprocess.DEVNULL)
    expected = result(str(folder / "local"))

    machines = {10: Machine(10, head[0])}
    machines |= {number: Machine(number, head[1]) for number in (11, 12)}
    address = ["--engine", "ray", "--address", "10.77.0.10:6379"]
    driver = machines[12].run(*command("s3://bucket/run", *address))

    # A machine is killed while it runs a unit, and another one joins.
    wait_for(lambda: done("fetch") and driver.poll() is None and machines[11].busy(), 200)
    report["killed while busy with"] = machines[11].busy()
    machines[11].kill()
    machines[13] = Machine(13, head[1])
    wait_for(lambda: machines[13].busy(), 200)
    report["the new one runs"] = machines[13].busy()
    wait_for(lambda: done("embed") >= 2, 200)

    # The head is killed. Its driver is on another machine, and ends with a line.
    report["done before"] = done("embed")
    machines[10].kill()
    begun = time.monotonic()
    _, said = driver.communicate(timeout=300)
    report["first"] = {"code": driver.returncode, "last": said.splitlines()[-1:], "seconds": time.monotonic() - begun}
    report["first"]["said"] = said[-3000:]
    report["done after"] = done("embed")
    report["had finished"] = (folder / "s3/bucket/run/manifest.json").exists()

    # It comes back; Ray's other nodes end with their head, and are started again as by their service manager.
    for number in (12, 13):
        machines[number].kill()
    machines = {10: Machine(10, head[0])}
    machines |= {number: Machine(number, head[1]) for number in (12, 13)}
    driver = machines[10].run(*command("s3://bucket/run", *address))
    _, said = driver.communicate(timeout=300)
    report["second"] = {"code": driver.returncode, "said": said[-3000:]}
    report["identical"] = result("s3://bucket/run") == expected
    report["files"] = len(expected)
    verify = [sys.executable, "-m", "curate.commands.main", "verify", "s3://bucket/run", "--deep"]
    report["verify"] = subprocess.run(verify, stdout=subprocess.DEVNULL).returncode
    for machine in machines.values():
        machine.kill()
finally:
    store.kill()
print(json.dumps(report))
"""


def test_machines_that_share_only_a_store_lose_one_gain_one_and_restart_their_head(tmp_path):
    report = in_namespaces(tmp_path, SCRIPT, seconds=900)
    print(report)
    assert report["killed while busy with"]
    assert report["the new one runs"]
    assert not report["had finished"]
    assert report["first"]["code"] == 4
    assert report["first"]["last"][0].endswith("the same command continues from here")
    assert report["second"]["code"] == 0
    assert report["files"] > 5
    assert report["identical"]
    assert report["verify"] == 0
