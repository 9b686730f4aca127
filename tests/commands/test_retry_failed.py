"""`curate retry-failed` and `fetch.min_success`, from the command line, against a web that fails and heals."""

import shutil
import socket
from pathlib import Path

import pyarrow.compute as pc
import pytest
import torch
import yaml
from helpers.drawn_web import keep_top, write_recipe
from helpers.fetch_samples import picture
from helpers.hostile_server import HostileServer, ok, status
from safetensors.torch import save_file

from curate.commands.main import main
from curate.commands.verify import verify
from curate.embed.model.names import POCKET
from curate.store import Folder, Store

pytestmark = pytest.mark.usefixtures("in_process")

ROWS = 30


@pytest.fixture
def web(tmp_path):
    """A recipe over a server on which every third picture is a 503."""
    with HostileServer() as server:
        server.answers |= {f"/{number}.jpg": status(503) for number in range(0, ROWS, 3)}
        fetch = {"host_failures": 1000}
        recipe = write_recipe(tmp_path, server, ROWS, part_size=15, fetch=fetch, select=[keep_top("top", 1.0)])
        yield server, recipe, Store(str(tmp_path / "run"))


def fetches(store):
    return [Folder.at(store, name) for name in store.folders() if name.startswith("fetch-")]


def classes(folder):
    found = [folder.table("images.parquet", part)["error_class"] for part in sorted(folder.units())]
    return sorted(str(name) for column in found for name in column.to_pylist())


def test_a_round_heals_and_everything_after_follows(web, capsys):
    server, recipe, store = web
    run = ["run", str(recipe), "--engine", "local"]
    again = ["retry-failed", store.url, "--engine", "local"]
    assert main([*again, "--until", "fetch"]) == 2
    assert "no recipe.json" in capsys.readouterr().err
    assert main([*run, "--until", "fetch"]) == 0
    (first,) = fetches(store)
    assert classes(first).count("http_5xx") == ROWS // 3
    files = [f"{first.path}/images/{name}" for name in store.names(f"{first.path}/images")]
    before = {name: store.read(name) for name in files}
    assert len(before) == 2 * 2

    server.answers |= {f"/{number}.jpg": ok(picture(number)) for number in range(ROWS)}
    capsys.readouterr()
    assert main([*again, "--class", "dns,http_4xx"]) == 0
    assert "nothing to fetch again" in capsys.readouterr().out
    assert main([*again, "--class", "htp_5xx"]) == 2
    assert "did you mean 'http_5xx'?" in capsys.readouterr().err
    assert fetches(store) == [first]
    asked = len(server.asked)
    assert main([*again, "--class", "http_5xx,dns", "--until", "fetch"]) == 0
    assert len(server.asked) == asked + ROWS // 3
    assert "10 images tried again, 10 recovered: http_5xx 10 of 10\n" in capsys.readouterr().out
    assert store.names("rounds") == ["0001.json"]
    (second,) = set(fetches(store)) - {first}
    assert classes(second) == ["None"] * ROWS
    assert classes(first).count("http_5xx") == ROWS // 3
    assert {name: store.read(name) for name in before} == before
    assert main(again) == 0
    assert "nothing to fetch again" in capsys.readouterr().out

    # The same recipe goes on with the newest round.
    assert main([*run, "--dry-run"]) == 0
    assert f"reused  ({second.path})" in capsys.readouterr().out
    assert main(run) == 0
    manifest = store.read_json("manifest.json")
    assert manifest["folders"]["fetch"] == second.path
    assert manifest["rounds"] == [first.path]
    assert len(server.asked) == asked + ROWS // 3
    assert verify(store, deep=True) == []
    select = Folder.at(store, manifest["folders"]["select"])
    kept = sum(
        pc.sum(select.table("decisions.parquet", part)["kept"]).as_py() for part in sorted(select.units() - {-1})
    )
    assert kept == ROWS
    assert main(["status", store.url]) == 0
    assert "of another recipe" not in capsys.readouterr().out


def test_a_round_that_was_interrupted_goes_on(web, capsys):
    server, recipe, store = web
    again = ["retry-failed", store.url, "--engine", "local", "--until", "fetch"]
    assert main(["run", str(recipe), "--engine", "local", "--until", "fetch"]) == 0
    (first,) = fetches(store)
    server.answers["/0.jpg"] = ok(picture(0))
    assert main([*again, "--class", "http_5xx"]) == 0
    (second,) = set(fetches(store)) - {first}
    part = min(second.units())
    store.delete(f"{second.path}/done/{part:06d}.json")
    capsys.readouterr()
    assert main([*again, "--class", "dns"]) == 2
    assert "round 1 is not finished" in capsys.readouterr().err
    server.answers |= {f"/{number}.jpg": ok(picture(number)) for number in range(ROWS)}
    assert main([*again, "--class", "http_5xx"]) == 0
    assert store.names("rounds") == ["0001.json"]
    assert "None" in classes(second)
    left = classes(second).count("http_5xx")
    assert 0 < left < ROWS // 3
    # Finished and still failing: the next one is another round.
    assert main([*again, "--class", "http_5xx"]) == 0
    assert store.names("rounds") == ["0001.json", "0002.json"]
    assert len(fetches(store)) == 3
    # What the newest round has is not asked of those before it.
    for name in store.names(f"{first.path}/done"):
        store.delete(f"{first.path}/done/{name}")
    asked = len(server.asked)
    assert main(["run", str(recipe), "--engine", "local", "--until", "fetch"]) == 0
    assert len(server.asked) == asked


def test_a_round_says_what_it_brought_back_by_class(web, capsys):
    server, recipe, store = web
    server.answers |= {f"/{number}.jpg": status(404) for number in (1, 2)}
    assert main(["run", str(recipe), "--engine", "local", "--until", "fetch"]) == 0
    again = ["retry-failed", store.url, "--engine", "local", "--until", "fetch", "--class", "http_5xx,http_4xx"]
    capsys.readouterr()
    assert main(again) == 0
    assert "12 images tried again, 0 recovered: http_5xx 0 of 10, http_4xx 0 of 2\n" in capsys.readouterr().out
    server.answers |= {f"/{number}.jpg": ok(picture(number)) for number in (0, 1)}
    assert main(again) == 0
    assert "12 images tried again, 2 recovered: http_5xx 1 of 10, http_4xx 1 of 2\n" in capsys.readouterr().out


def snapshot(store):
    """Every file of a run folder with its bytes, but those of fetches and rounds, and what is only remembered."""
    root = Path(store.url)
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(("fetch-", "rounds/", "remembered.json"))}


def test_a_round_that_brings_nothing_back_changes_nothing(web, capsys):
    server, recipe, store = web
    run = ["run", str(recipe), "--engine", "local"]
    again = ["retry-failed", store.url, "--engine", "local"]
    assert main(run) == 0
    (first,) = fetches(store)
    before = snapshot(store)
    capsys.readouterr()
    assert main(again) == 0
    said = capsys.readouterr().out
    assert "10 images tried again, 0 recovered: http_5xx 0 of 10\n" in said
    assert f"nothing changed: {store.url}" in said
    assert snapshot(store) == before
    assert store.read_json("manifest.json")["folders"]["fetch"] == first.path
    (second,) = set(fetches(store)) - {first}
    assert main(["status", store.url]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if "(" in line] == [f"{second.path} 2 of 2 parts (a round that recovered no image)"]
    # Nor does it for a later command.
    asked = len(server.asked)
    assert main(run) == 0
    assert len(server.asked) == asked
    assert {name for name in snapshot(store) if name.startswith("embed-")} == {
        name for name in before if name.startswith("embed-")
    }
    assert verify(store, deep=True) == []
    # The next round tries the same images, from the same fetch, in a folder of its own.
    server.answers |= {"/0.jpg": ok(picture(0))}
    capsys.readouterr()
    assert main([*again, "--until", "fetch"]) == 0
    assert "10 images tried again, 1 recovered: http_5xx 1 of 10\n" in capsys.readouterr().out
    (third,) = set(fetches(store)) - {first, second}
    assert store.read_json(f"{third.path}/pass.json")["upstream"] == sorted([first.path, plan_of(store)])
    assert main(run) == 0
    manifest = store.read_json("manifest.json")
    assert (manifest["folders"]["fetch"], manifest["rounds"]) == (third.path, [first.path])


def plan_of(store):
    (plan,) = (name for name in store.folders() if name.startswith("plan-"))
    return plan


@pytest.mark.parametrize("command", ["run", "retry-failed"])
def test_a_kill_before_a_round_is_settled_is_made_good(command, web, capsys):
    """Its images are all fetched, and nothing says yet that none of them came back."""
    server, recipe, store = web
    run = ["run", str(recipe), "--engine", "local"]
    again = ["retry-failed", store.url, "--engine", "local"]
    assert main(run) == 0
    before = snapshot(store)
    assert main(again) == 0
    (settled,) = store.names("rounds/settled")
    store.delete(f"rounds/settled/{settled}")
    asked = len(server.asked)
    assert main([*again, "--class", "dns"]) == 2
    assert "round 1 is not finished" in capsys.readouterr().err
    assert main(run if command == "run" else again) == 0
    assert len(server.asked) == asked
    assert store.names("rounds") == ["0001.json"]
    assert store.names("rounds/settled") == [settled]
    assert {name for name in snapshot(store) if "-" in name} == {name for name in before if "-" in name}
    # A kill while it fetches: one part is not done.
    store.delete(f"rounds/settled/{settled}")
    (first, second) = sorted(fetches(store), key=lambda folder: (folder.path != fetch_of(store), folder.path))
    store.delete(f"{second.path}/done/{min(second.units()):06d}.json")
    assert main(run if command == "run" else again) == 0
    assert len(server.asked) > asked
    assert {name for name in snapshot(store) if "-" in name} == {name for name in before if "-" in name}
    assert fetch_of(store) == first.path


def fetch_of(store):
    return store.read_json("manifest.json")["folders"]["fetch"]


def test_a_round_over_a_sample_that_brings_nothing_back(web, capsys):
    _, recipe, store = web
    assert main(["run", str(recipe), "--engine", "local", "--sample", "0.5"]) == 0
    before = snapshot(store)
    capsys.readouterr()
    assert main(["retry-failed", store.url, "--engine", "local", "--sample", "0.5"]) == 0
    assert "0 recovered" in capsys.readouterr().out
    assert snapshot(store) == before
    assert main(["run", str(recipe), "--engine", "local", "--until", "fetch"]) == 0
    (first,) = (folder for folder in fetches(store) if folder.path == fetch_of_sample(store))
    assert len(first.units()) == 2


def fetch_of_sample(store):
    return store.read_json("manifest-sample-0.5.json")["folders"]["fetch"]


def test_a_run_that_cannot_work_stops_and_says_why(web, capsys):
    _, recipe, store = web
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()[1]
    lists = Path(recipe).parent / "list.csv"
    lists.write_text("url,caption\n" + "".join(f"http://127.0.0.1:{closed}/{n}.jpg,x\n" for n in range(40)))
    command = ["run", str(recipe), "--engine", "local", "--set", f"fetch.allow=['127.0.0.1:{closed}']"]
    assert main([*command, "--set", "fetch.min_success_window=10"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("curate: ")
    assert "failed as 'refused'" in said
    assert "fetch.min_success (0.05)" in said
    assert main([*command, "--set", "fetch.min_success=0", "--until", "fetch"]) == 0
    assert len(fetches(store)) == 1


def test_a_run_of_relative_paths_is_gone_on_with_from_any_folder(web, tmp_path, monkeypatch, capsys):
    server, recipe, _ = web
    (tmp_path / "model").mkdir()
    shutil.copy(POCKET / "config.json", tmp_path / "model")
    shutil.copy(POCKET / "weights.safetensors", tmp_path / "model" / "open_clip_model.safetensors")
    (tmp_path / "bad.txt").write_text("0" * 64 + "\n")
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "one.jpg").write_bytes(picture(1))
    save_file({"weight": torch.zeros(1, 128)}, tmp_path / "head.safetensors")
    content = yaml.safe_load(recipe.read_text())
    content["fetch"]["blocklists"] = ["bad.txt"]
    content["source"]["paths"] = ["list.csv"]
    content["output"] = "run"
    content["models"] = {"m": {"name": "model/config.json", "pretrained": "model"}}
    content["signals"] = {"heads": {"h": {"path": "head.safetensors"}}, "targets": {"t": {"images": ["good"]}}}
    recipe.write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    assert main(["run", "recipe.yaml", "--engine", "local", "--until", "fetch"]) == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    server.answers |= {f"/{number}.jpg": ok(picture(number)) for number in range(ROWS)}
    assert main(["retry-failed", "../run", "--engine", "local", "--until", "fetch"]) == 0
    said = capsys.readouterr()
    assert "10 images tried again, 10 recovered" in said.out, said.err
    # A list by its relative and by its absolute path is one source, and every pass is found again.
    monkeypatch.chdir(tmp_path)
    again = ["run", str(recipe), "--dry-run", "--set", f"source.paths=['{tmp_path}/list.csv']", "--until", "fetch"]
    assert main(again) == 0
    assert capsys.readouterr().out.count("reused") == 3
