"""Weights reach a machine once, however many of its processes want them at the same time; safetensors come first."""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import huggingface_hub.constants
import huggingface_hub.utils._http
import open_clip.pretrained
import pytest
import torch
from helpers import weights_processes
from helpers.embed_parts import FAMILIES
from helpers.said import errors

from curate.commands.main import main
from curate.embed.model import weights
from curate.embed.model.describe import describe
from curate.embed.model.loading import load
from curate.errors import Exit, ModelError

PROCESSES = 2
SPAWN = multiprocessing.get_context("spawn")
SERVER = multiprocessing.get_context("forkserver")
"""Forks from a process that imported once what takes seconds; the hub's client reads its environment at that moment."""

SERVER.set_forkserver_preload(["open_clip", "curate.embed.model.weights"])


class Shelf(ThreadingHTTPServer):
    """Serves files as an S3 server, a hub or any other web server does, slowly, and counts what is read of each."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.read: list[str] = []
        self.seconds = 1.0
        self.address = f"127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Shelf

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        path = self.path.partition("?")[0]
        data = self.server.files.get(path)
        if data is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        # Taken before the test is told of the request: from then on it may set another one.
        seconds = self.server.seconds
        if body:
            self.server.read.append(path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.md5(data).hexdigest()}"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if body:
            self.wfile.write(data[:1000])
            self.wfile.flush()
            # The others come while this one is half there.
            time.sleep(seconds)
            self.wfile.write(data[1000:])

    def log_message(self, *_):
        pass


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    with Shelf() as server:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETKEY1234567")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.address}")
        monkeypatch.setenv("HF_ENDPOINT", f"http://{server.address}")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            monkeypatch.delenv(name, raising=False)
        yield server


def together(tag, pretrained, context=SERVER):
    """What so many processes get that ask for the same weights at the same moment."""
    ready, said = context.Barrier(PROCESSES), context.Queue()
    given = (dict(os.environ), tag, pretrained, ready, said)
    asking = [context.Process(target=weights_processes.ask, args=given) for _ in range(PROCESSES)]
    for process in asking:
        process.start()
    found = [said.get(timeout=120) for _ in asking]
    for process in asking:
        process.join()
    return found


def test_processes_that_start_together_copy_a_file_once(shelf, tmp_path):
    data = os.urandom(100_000)
    shelf.files["/bucket/tiny/weights.safetensors"] = data
    found = together(None, "s3://bucket/tiny/weights.safetensors")
    assert found == [found[0]] * PROCESSES
    path, digest = found[0]
    assert digest == hashlib.sha256(data).hexdigest()
    assert [file.name for file in (tmp_path / ".cache" / "curate" / "weights").iterdir()] == [Path(path).name]
    assert len(shelf.read) == 1


def test_processes_that_start_together_download_a_tag_once(shelf):
    """A tag of open_clip's that lies at a plain URL: it writes such a file in place."""
    data = os.urandom(100_000)
    shelf.files["/weights.pt"] = data
    found = together({"url": f"http://{shelf.address}/weights.pt"}, "made_up")
    assert found == [(found[0][0], hashlib.sha256(data).hexdigest())] * PROCESSES
    assert len(shelf.read) == 1


def test_processes_that_start_together_download_from_the_hub_once(shelf):
    """The hub's client sees to it by itself; should it cease to, this says so."""
    data = os.urandom(100_000)
    shelf.files["/somebody/tiny/resolve/main/open_clip_model.safetensors"] = data
    found = together({"hf_hub": "somebody/tiny/"}, "made_up", SPAWN)
    assert found == [(found[0][0], hashlib.sha256(data).hexdigest())] * PROCESSES
    assert len(shelf.read) == 1


def test_a_process_that_is_killed_while_it_copies_lets_the_next_one(shelf):
    data = os.urandom(100_000)
    shelf.files["/bucket/weights.safetensors"] = data
    shelf.seconds = 60.0
    ready, said = SERVER.Barrier(2), SERVER.Queue()
    given = (dict(os.environ), None, "s3://bucket/weights.safetensors", ready, said)
    first, second = (SERVER.Process(target=weights_processes.ask, args=given) for _ in range(2))
    first.start()
    ready.wait(60)
    deadline = time.monotonic() + 60
    while not shelf.read:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    shelf.seconds = 0.0
    second.start()
    ready.wait(60)
    time.sleep(1.5)
    assert said.empty(), said.get()
    os.kill(first.pid, signal.SIGKILL)
    assert said.get(timeout=60)[1] == hashlib.sha256(data).hexdigest()
    for process in (first, second):
        process.join()
    assert len(shelf.read) == 2


@pytest.fixture
def tag(shelf, tmp_path, monkeypatch):
    """Makes a tag of open_clip's that lies on a hub with these files."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://{shelf.address}")
    template = f"http://{shelf.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    shelf.seconds = 0.0

    def make(named, *files):
        shelf.files |= {f"/somebody/tiny/resolve/main/{file}": file.encode() * 100 for file in files}
        known = {"hf_hub": f"somebody/tiny/{named}", "url": f"http://{shelf.address}/{files[-1]}"}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED["ViT-B-32"], "made_up", known)
        return "made_up"

    return make


@pytest.mark.parametrize(
    ("named", "files", "taken"),
    [
        ("", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"], "open_clip_model.safetensors"),
        ("", ["open_clip_pytorch_model.bin"], "open_clip_pytorch_model.bin"),
        # As some of open_clip's tags name their file.
        ("pytorch_model.bin", ["pytorch_model.bin", "pytorch_model.safetensors"], "pytorch_model.safetensors"),
    ],
)
def test_of_a_tag_safetensors_are_taken(named, files, taken, tag, shelf):
    """What open_clip does by itself; should it cease to, this says so."""
    file = weights.find("ViT-B-32", tag(named, *files)).weights_file()
    assert file.name == taken
    assert shelf.read == [f"/somebody/tiny/resolve/main/{taken}"]


@pytest.mark.parametrize("refused", ["hub", "server"])
def test_without_a_network_one_line_names_the_key(refused, tag, shelf, tmp_path, monkeypatch, capfd):
    """The hub's own client, and urllib, against an address where nobody listens."""
    made_up = tag("", "open_clip_model.safetensors")
    if refused == "server":
        known = {"url": f"http://{shelf.address}/weights.pt"}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED["ViT-B-32"], made_up, known)
    shelf.shutdown()
    shelf.server_close()
    # The client's pauses between its tries, half a minute in all.
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda _seconds: None)
    (tmp_path / "list.csv").write_text("url,caption\nhttp://a/b.jpg,c\n")
    recipe = f"{{version: 1, source: {{paths: [{tmp_path}/list.csv]}}, output: {tmp_path}/run, models: {{l14: MODEL}}}}"
    model = f"{{name: ViT-B-32, pretrained: {made_up}}}"
    (tmp_path / "recipe.yaml").write_text(recipe.replace("MODEL", model))
    # Whether the client's error tells a server that is away from a wrong name differs between the two clients.
    assert main(["run", str(tmp_path / "recipe.yaml"), "--dry-run"]) in (Exit.WRONG, Exit.STORAGE)
    (said,) = errors(capfd.readouterr().err)
    assert said.startswith("curate: models.l14.pretrained: 'made_up' of ViT-B-32 cannot be downloaded: no connection (")
    assert "refused" in said
    assert said.endswith("); it may also be the path of a file or folder of weights")


def test_a_model_on_the_hub_is_the_one_that_its_folder_holds(tag, shelf, tiny):
    made, there = tiny("vit"), "/somebody/tiny/resolve/main"
    shelf.files[f"{there}/open_clip_config.json"] = json.dumps(CONFIG).encode()
    shelf.files[f"{there}/open_clip_model.safetensors"] = Path(made.weights).read_bytes()
    facts = describe("hf-hub:somebody/tiny", None)
    local = describe(made.config, made.weights)
    assert facts.weights_sha256 == local.weights_sha256
    assert facts.preprocess == {**local.preprocess, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    model = load("hf-hub:somebody/tiny", None, "fp32", torch.device("cpu"), weights_sha256=facts.weights_sha256)
    captions = ["a cat", "two dogs"]
    with torch.inference_mode():
        theirs = made.clip.encode_text(made.tokenize(captions), normalize=True)
    torch.testing.assert_close(torch.from_numpy(model.encode_captions(captions, 2)), theirs, atol=1e-5, rtol=0)
    # Each file once, though a run asks for them again on every start.
    assert sorted(Path(path).name for path in shelf.read) == ["open_clip_config.json", "open_clip_model.safetensors"]


def test_a_model_on_the_hub_does_not_have_code_trusted(tag, shelf):
    text = {**FAMILIES["vit"]["text_cfg"], "hf_tokenizer_name": "somebody/tiny"}
    text["tokenizer_kwargs"] = {"clean": "lower", "trust_remote_code": True}
    there = "/somebody/tiny/resolve/main"
    config = {"model_cfg": {**FAMILIES["vit"], "text_cfg": text}, "preprocess_cfg": PREPROCESS}
    shelf.files[f"{there}/open_clip_config.json"] = json.dumps(config).encode()
    shelf.files[f"{there}/open_clip_model.safetensors"] = b"weights"
    for ask in (describe, lambda name, weights: load(name, weights, "fp32", torch.device("cpu"))):
        with pytest.raises(ModelError, match=r"text_cfg\.tokenizer_kwargs\.trust_remote_code is not accepted"):
            ask("hf-hub:somebody/tiny", None)
    # Nor is anything else asked for.
    assert set(shelf.read) == {f"{there}/open_clip_config.json"}


def test_a_model_that_is_not_on_the_hub_is_one_line(tag):
    with pytest.raises(ModelError, match=r"^models\.x\.name: 'hf-hub:somebody/else' cannot be downloaded: ") as caught:
        describe("hf-hub:somebody/else", None, key="models.x")
    assert "\n" not in str(caught.value)


PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "size": 999}
CONFIG = {"model_cfg": FAMILIES["vit"], "preprocess_cfg": PREPROCESS}


@pytest.fixture(params=["local", "remote"])
def snapshot(request, tmp_path, tiny, monkeypatch):
    """Makes a folder of weights as the hub's client leaves it, and says its path or URL."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = Path(tiny("vit").weights)
    contents = {
        "open_clip_model.safetensors": made.read_bytes(),
        "open_clip_pytorch_model.bin": made.with_suffix(".pt").read_bytes(),
        "broken": b"not to be read",
    }

    def make(config=None, **files):
        root = str(tmp_path / "snapshot") if request.param == "local" else f"memory://{tmp_path.name}/snapshot"
        fs = fsspec.filesystem("memory" if request.param == "remote" else "file")
        fs.makedirs(root, exist_ok=True)
        for stem, content in files.items():
            name = {"safe": "open_clip_model.safetensors", "pickle": "open_clip_pytorch_model.bin"}.get(stem, stem)
            fs.pipe_file(f"{root}/{name}", contents[content])
        if config:
            fs.pipe_file(f"{root}/open_clip_config.json", json.dumps(config).encode())
        return root

    return make


@pytest.mark.parametrize("slash", ["", "/"])
def test_of_a_folder_safetensors_are_taken(snapshot, tiny, slash):
    made = tiny("vit")
    folder = snapshot(safe="open_clip_model.safetensors", pickle="broken") + slash
    assert describe(made.config, folder) == describe(made.config, made.weights)
    model = load(made.config, folder, "fp32", torch.device("cpu"))
    for key, value in made.clip.state_dict().items():
        assert torch.equal(model.clip.state_dict()[key], value), key


def test_of_a_folder_with_a_pickle_alone_that_one_is_taken(snapshot, tiny):
    made = tiny("vit")
    folder = snapshot(pickle="open_clip_pytorch_model.bin")
    assert describe(made.config, folder) == describe(made.config, str(Path(made.weights).with_suffix(".pt")))


def test_a_folder_brings_its_preprocessing(snapshot, tiny):
    folder = snapshot(CONFIG, safe="open_clip_model.safetensors")
    facts = describe(tiny("vit").config, folder)
    assert facts.preprocess["mean"] == PREPROCESS["mean"]
    assert facts.image_size == (32, 32)
    assert load(tiny("vit").config, folder, "fp32", torch.device("cpu")).preprocess.std == (0.25, 0.25, 0.25)
    # The config file may be named as the model, too.
    assert describe(f"{folder}/open_clip_config.json", folder) == facts


def test_a_folder_of_another_architecture_is_refused(snapshot, tiny):
    other = {**CONFIG, "model_cfg": {**FAMILIES["vit"], "quick_gelu": True}}
    folder = snapshot(other, safe="open_clip_model.safetensors")
    with pytest.raises(ModelError, match=r"open_clip_config\.json \(quick_gelu\); name that file as the model"):
        describe(tiny("vit").config, folder)
    describe(f"{folder}/open_clip_config.json", folder)


def test_a_folder_without_weights_is_refused(snapshot, tiny):
    folder = snapshot(CONFIG, **{"model.safetensors": "open_clip_model.safetensors"})
    with pytest.raises(ModelError, match=r"snapshot: the folder has neither open_clip_model\.safetensors nor open"):
        describe(tiny("vit").config, folder)
    with pytest.raises(ModelError, match="has no weights"):
        describe(tiny("vit").config, f"{folder}/nowhere")


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), torch.AcceleratorError, "launch failure"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), ModelError, "the GPU's memory does not hold it"),
    ],
    ids=["failed", "full"],
)
def test_what_a_gpu_says_while_a_model_is_loaded_is_not_blamed_on_its_weights(error, raised, said, monkeypatch):
    def create_model(*_, **__):
        raise error

    monkeypatch.setattr(open_clip, "create_model", create_model)
    with pytest.raises(raised, match=said):
        load("pocket", None, "fp32", torch.device("cpu"))
