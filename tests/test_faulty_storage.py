"""A whole run over an S3 server that fails now and then, and goes away for a while, gives the same bytes."""

import threading
import time

import pytest
import yaml
from helpers.sample_run import sample, write_tar

from curate.commands.main import main
from curate.runs import patience
from curate.store import Store

pytestmark = pytest.mark.usefixtures("in_process")


def run(folder, output):
    content = {
        "version": 1,
        "part_size": 8,
        "source": {"kind": "samples", "paths": [str(folder / "a.tar")]},
        "output": output,
        "select": [{"drop": "half", "keep_top": {"of": "clip_similarity", "fraction": 0.5}}],
        "pack": {"shard_size": 5},
        "storage": {"patience": 120},
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content))
    return main(["run", str(recipe), "--engine", "local"])


def wait_for(condition):
    while not condition():
        time.sleep(0.01)


def result(store):
    """The bytes of the result's files by name, without the card, which names the output."""
    manifest = store.read_json("manifest.json")
    names = [info["name"] for info in manifest["result"] if info["name"] != "README.md"]
    return {name: store.read(f"{manifest['pack']}/{name}") for name in names}


@pytest.mark.soak
@pytest.mark.parametrize(("images", "rate", "outages"), [(12, 0.05, [80]), (60, 0.1, [100, 250, 400])])
def test_a_run_over_a_server_that_fails_gives_the_same_bytes(
    faulty_s3, tmp_path, monkeypatch, capsys, images, rate, outages
):
    monkeypatch.setattr(patience, "FIRST", 0.1)
    write_tar(tmp_path / "a.tar", [member for n in range(images) for member in sample(f"{n}", n, f"caption {n}")])
    assert run(tmp_path, str(tmp_path / "run")) == 0
    expected = result(Store(str(tmp_path / "run")))
    assert len(expected) > 3

    faulty_s3.conditional = True
    faulty_s3.rate = rate
    capsys.readouterr()

    def go_away():
        """Answers nothing but 503, for longer than one call tries."""
        for after in outages:
            wait_for(lambda after=after: len(faulty_s3.requests) >= after)
            before = faulty_s3.seen["503"]
            faulty_s3.always = "503"
            wait_for(lambda before=before: faulty_s3.seen["503"] >= before + 2 * 7 * 3)
            faulty_s3.always = None

    away = threading.Thread(target=go_away, daemon=True)
    away.start()
    assert run(tmp_path, "s3://bucket/run") == 0
    away.join()
    faulty_s3.rate = 0.0
    assert "cannot go on: OSError: [Errno 16]" in capsys.readouterr().err
    assert sum(faulty_s3.seen[fault] for fault in faulty_s3.seen if fault) > 10
    store = Store("s3://bucket/run")
    assert result(store) == expected
    assert main(["verify", "s3://bucket/run", "--deep"]) == 0
    left = [name for name in store.ages("") if "/attempts/" in name or "/failed/" in name]
    assert left == []
