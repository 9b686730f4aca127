"""Decisions without a result, from the command line: nothing kept, nothing packed yet, samples."""

import socket
from pathlib import Path

import pytest
import yaml
from helpers.fetch_samples import picture
from helpers.hostile_server import HostileServer, ok, status

from curate.commands.main import main
from curate.errors import Exit
from curate.store import Store

pytestmark = pytest.mark.usefixtures("in_process")

ROWS = 24


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe over a server's pictures; returns how to run it."""

    def write(address, **keys):
        lines = [f"http://{address}/{number}.jpg,a grey drawing number {number}" for number in range(ROWS)]
        (tmp_path / "list.csv").write_text("\n".join(["url,caption", *lines]) + "\n")
        content = {
            "version": 1,
            "source": {"paths": [str(tmp_path / "list.csv")]},
            "output": str(tmp_path / "run"),
            "part_size": 12,
            "fetch": {"allow": [address], "retries": 0, "timeout": 20, "host_failures": 3, "host_connections": 1},
            "select": [{"drop": "all", "where": "width > 0"}],
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**content, **keys}))
        return ["run", str(tmp_path / "recipe.yaml"), "--engine", "local"]

    return write


@pytest.fixture
def web():
    with HostileServer() as server:
        server.answers |= {f"/{number}.jpg": ok(picture(number)) for number in range(ROWS)}
        yield server


def test_where_the_loss_is_in_fetch_the_first_refusal_and_the_way_out_are_named(recipe, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"127.0.0.1:{listener.getsockname()[1]}"
    run = str(tmp_path / "run")
    assert main(recipe(closed)) == Exit.NOTHING_KEPT
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == (
        "curate: no pair was kept, most were dropped as 'fetch:host_busy', after 'fetch:refused'; nothing was packed. "
        f"Once the cause is fixed: curate retry-failed {run}"
    )
    # The funnel and the page are there as after any other run.
    assert "fetch:refused" in said.out
    assert f"0 of {ROWS} pairs kept" in said.out
    (report,) = [line.split()[1] for line in said.out.splitlines() if line.startswith("report ")]
    page = Path(report).read_text()
    assert "none: no pair was kept" in page
    assert "No pair was kept." in page
    assert not [name for name in Store(run).folders() if name.startswith("pack-")]
    assert not Store(run).exists("manifest.json")

    assert main(["status", run]) == 0
    said = capsys.readouterr().out
    assert "result   none\n" in said
    assert report in said
    assert f"kept     0 of {ROWS}" in said
    assert "fetch:host_busy" in said
    assert main(["explain", run, f"http://{closed}/3.jpg"]) == 0
    assert "decision    dropped: fetch:" in capsys.readouterr().out
    # The same command does nothing again and ends in the same words.
    assert main(recipe(closed)) == Exit.NOTHING_KEPT
    assert "after 'fetch:refused'" in capsys.readouterr().err


def test_a_class_that_does_not_heal_by_itself_is_named_to_retry_failed(recipe, web, tmp_path, capsys):
    web.answers |= {f"/{number}.jpg": status(404) for number in range(ROWS)}
    assert main(recipe(web.address)) == Exit.NOTHING_KEPT
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith(f"Once the cause is fixed: curate retry-failed {tmp_path}/run --class http_4xx")


def test_a_step_that_drops_all_beside_an_earlier_result(recipe, web, tmp_path, capsys):
    run = str(tmp_path / "run")
    command = recipe(web.address)
    assert main([*command, "--set", "select.all.where=width < 0"]) == 0
    manifest = Store(run).read_json("manifest.json")
    capsys.readouterr()
    assert main(["status", run]) == 0
    assert f"result   {run}/{manifest['pack']}\n" in capsys.readouterr().out

    assert main(command) == Exit.NOTHING_KEPT
    said = capsys.readouterr().err
    assert said.endswith("no pair was kept, most were dropped as 'all'; nothing was packed\n")
    assert Store(run).read_json("manifest.json") == manifest, "the result is still the result"
    assert main(["status", run]) == 0
    said = capsys.readouterr().out
    assert f"result   {run}/{manifest['pack']} (of earlier decisions)\n" in said
    assert f"kept     0 of {ROWS}" in said
    assert main(["explain", run, f"http://{web.address}/3.jpg"]) == 0
    said = capsys.readouterr().out
    assert "decision    dropped: all" in said
    assert "→ all" in said

    # Decided on, and not packed yet.
    assert main([*command, "--set", "select.all.where=width < 1", "--until", "select"]) == 0
    capsys.readouterr()
    assert main(["explain", run, f"http://{web.address}/3.jpg"]) == 0
    said = capsys.readouterr().out
    assert "decision    kept" in said
    assert "packed" not in said


def test_a_sample_that_was_never_run_is_one_line_and_those_that_were_are_named(recipe, web, tmp_path, capsys):
    run = str(tmp_path / "run")
    command = recipe(web.address)
    assert main([*command, "--sample", "0.04", "--until", "fetch"]) == 0
    for asked in (["status", run], ["explain", run, f"http://{web.address}/3.jpg"]):
        capsys.readouterr()
        assert main([*asked, "--sample", "0.1"]) == 2
        assert capsys.readouterr().err == f"curate: {run}: no sample 0.1 here; samples: 0.04\n"
    # Begun and not decided on yet is not the same as never run.
    assert main(["status", run, "--sample", "0.04"]) == 0
    assert "1 of 2 parts" in capsys.readouterr().out
    assert main(["explain", run, f"http://{web.address}/3.jpg", "--sample", "0.04"]) == 2
    assert "no decisions yet" in capsys.readouterr().err
    assert main([*command, "--sample", "0.04", "--until", "select"]) == 0
    said = []
    for number in range(ROWS):
        assert main(["explain", run, f"http://{web.address}/{number}.jpg", "--sample", "0.04"]) == 0
        said.append(capsys.readouterr().out)
    outside = ["its part is not in this sample" in lines for lines in said]
    assert True in outside
    assert False in outside
    # Samples come and go; the whole run has no file of theirs.
    assert main(["status", run]) == 0
    assert "result   none yet" in capsys.readouterr().out


def test_a_sample_of_a_list_smaller_than_a_part_is_that_share_of_its_rows(recipe, web, tmp_path, capsys):
    run = str(tmp_path / "run")
    command = [*recipe(web.address, part_size=1000), "--set", "select.all.where=width < 0"]
    assert main([*command, "--sample", "0.25"]) == 0
    said = capsys.readouterr()
    assert f"the sample covers 6 of {ROWS} rows, in 1 of 1 part, 6 rows of the last\n" in said.err
    assert "missing" not in said.out + said.err
    assert f"6 of {ROWS} pairs kept\n" in said.out
    assert f"a sample: 6 of {ROWS} rows were decided on\n" in said.out
    assert "not_sampled" in said.out
    assert main(["verify", run, "--deep", "--sample", "0.25"]) == 0
    capsys.readouterr()
    (card,) = Path(run).glob("pack-*/README.md")
    assert f"A sample: 6 of {ROWS} rows of the list were decided on." in card.read_text()
    ends = []
    for number in range(ROWS):
        assert main(["explain", run, f"http://{web.address}/{number}.jpg", "--sample", "0.25"]) == 0
        ends += [line for line in capsys.readouterr().out.splitlines() if line.startswith("decision")]
    assert sorted(ends) == ["decision    dropped: not_sampled"] * 18 + ["decision    kept"] * 6
    # The whole list is another matter: nothing is fetched again, and all of it is decided on.
    asked = len(web.asked)
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"{ROWS} of {ROWS} pairs kept\n" in said
    assert "not_sampled" not in said
    assert len(web.asked) == asked
