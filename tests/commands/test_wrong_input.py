"""Wrong recipes and commands: exit 2, one line, nothing written, whatever is wrong."""

import contextlib
import copy
import io
import itertools
import json
import zipfile
from collections import Counter
from unittest import mock

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate import store
from curate.commands.main import main
from curate.errors import Exit
from curate.recipe import Recipe

COUNTS: Counter[str] = Counter()
"""Wrong inputs that were tried, and those that did not end as one line."""


class Accepted(Exception):
    """The checks accepted what they were given."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a list, a file and a folder that is no run."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "list.csv").write_text("url,caption,uid\nhttp://127.0.0.1:1/a.jpg,a caption,00\n")
    (folder / "file").write_text("x")
    (folder / "folder").mkdir()
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr("curate.flow.run", mock.Mock(side_effect=Accepted))
        patch.setattr("curate.prepare._facts", mock.Mock(side_effect=Accepted))
        yield folder


def valid(place):
    return {"version": 1, "source": {"paths": [str(place / "list.csv")]}, "output": str(place / "run")}


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def outcome(arguments):
    """What a command does: `accepted`, or its exit code and the lines on stderr."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            code = main(arguments)
    except Accepted:
        return "accepted", []
    return code, errors.getvalue().splitlines()


def refused(folder, arguments):
    """Asserts that a command ends as exit 2 and one line, with nothing written; returns the line."""
    before = files(folder)
    code, lines = outcome(arguments)
    COUNTS["wrong"] += 1
    is_right = code == Exit.WRONG and len(lines) == 1 and lines[0].startswith("curate: ") and files(folder) == before
    COUNTS["faults"] += not is_right
    assert is_right, (code, lines, set(files(folder)) - set(before))
    assert lines[0].isprintable()
    assert len(lines[0]) < 1000
    return lines[0]


def run(place, text, *more):
    recipe = place / "recipe.yaml"
    recipe.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return ["run", str(recipe), "--engine", "local", *more]


def test_the_recipe_without_a_fault_is_accepted(place):
    assert outcome(run(place, yaml.safe_dump(valid(place))))[0] == "accepted"


PLACES = [
    "",
    " ",
    "~",
    "~/run",
    "memory://x",
    "ftp://127.0.0.1/x",
    "gopher://x",
    "s3://",
    "://",
    "a\nb",
    "a\0b",
    "x" * 5000,
]


@pytest.mark.parametrize("output", [*PLACES, "http://127.0.0.1:1/x", "gs://bucket/x", "file", "file/x", "/dev/null"])
def test_outputs(place, output):
    refused(place, run(place, yaml.safe_dump({**valid(place), "output": output})))


@pytest.mark.parametrize("path", [*PLACES, "file", "nope.csv", "folder", "nope/*.csv"])
def test_inputs(place, path):
    content = valid(place)
    content["source"]["paths"] = [path]
    refused(place, run(place, yaml.safe_dump(content)))
    refused(place, run(place, yaml.safe_dump({**valid(place), "fetch": {"blocklists": [path, "nope.txt"]}})))
    refused(place, run(place, yaml.safe_dump({**valid(place), "fetch": {"phash_blocklists": [path]}})))


CHAINS = ["zip://list.csv::{}", "zip://*.csv::file://{}", "tar://::{}", "simplecache::file://{}", "zip::hdfs://h{}"]
KEYS_OF_PLACES = ["output", "source.paths", "fetch.blocklists", "signals.targets.t.images", "models.m.pretrained"]


@pytest.mark.parametrize("key", KEYS_OF_PLACES)
@pytest.mark.parametrize("chain", [*CHAINS, "simplecache::zip://list.csv::{}", "zip://a::https://127.0.0.1:1/{}"])
def test_chained_file_systems(place, key, chain):
    """fsspec reads a file inside another one by `::`; a run does not, and says so by the name of the key."""
    with zipfile.ZipFile(place / "lists.zip", "w") as lists:
        lists.write(place / "list.csv", "list.csv")
    chained = chain.format(place / "lists.zip")
    content = {**valid(place), "models": {"m": {"name": "ViT-B-32", "pretrained": "openai"}}}
    section, last = content, key.rpartition(".")[2]
    for name in key.split(".")[:-1]:
        section = section.setdefault(name, {})
    section[last] = chained if last in ("output", "pretrained") else [chained]
    line = refused(place, run(place, yaml.safe_dump(content)))
    assert line.startswith(f"curate: recipe: {key}")
    assert "chains file systems by ::, which are not read here; unpack the archive, or write the path" in line
    assert "s3://" in line


def test_a_name_with_two_colons_is_no_chain(place):
    (place / "a::b.csv").write_bytes((place / "list.csv").read_bytes())
    for path in (f"{place}/a::b.csv", f"file://{place}/a::b.csv"):
        content = {**valid(place), "source": {"paths": [path]}}
        assert outcome(run(place, yaml.safe_dump(content)))[0] == "accepted"


@pytest.mark.parametrize("kind", ["urls", "samples"])
def test_a_file_system_whose_library_does_not_load(place, kind, monkeypatch):
    def unloadable(protocol, **options):
        raise OSError("Unable to load libjvm\ndlopen failed")

    content = {**valid(place), "source": {"paths": ["hdfs://host/lists"], "kind": kind}}
    monkeypatch.setattr(store.fsspec, "filesystem", unloadable)
    line = refused(place, run(place, yaml.safe_dump(content)))
    assert "hdfs://host/lists cannot be read: Unable to load libjvm" in line


@pytest.mark.parametrize(
    "entry",
    [
        "999.1.1.1:80",
        "127.0.0.1:0",
        "127.0.0.1:99999",
        "127.0.0.1:٣٣",
        "127.0.0.1:080",
        "[:::]:80",
        "127.0.0.1",
        "",
        "01.2.3.4:80",
        "[fe80::1%eth0]:1",
        " 127.0.0.1:80",
        "127.0.0.1:80\n",
        "localhost:80",
        "[127.0.0.1]:80",
        "::1:80",
    ],
)
def test_addresses_that_are_opened(place, entry):
    line = refused(place, run(place, yaml.safe_dump({**valid(place), "fetch": {"allow": [entry]}})))
    assert "fetch.allow.0: " in line
    assert "is not address:port" in line


@pytest.mark.parametrize("agent", ["a\r\nX: y", "ü", " ", "a\tb", "x" * 1001, "\x7f", "a ", ""])
def test_agents(place, agent):
    line = refused(place, run(place, yaml.safe_dump({**valid(place), "fetch": {"agent": agent}})))
    assert "fetch.agent: " in line
    assert "write at most 1,000 characters of ASCII" in line


@pytest.mark.parametrize(
    "endpoint", ["x", "ftp://x", "http://", "http://x:99999", "", "localhost:9000", "http://[::1", "http://a b"]
)
def test_endpoints(place, endpoint):
    refused(place, run(place, yaml.safe_dump({**valid(place), "storage": {"endpoint": endpoint}})))
    refused(place, ["status", "s3://bucket/run", "--endpoint", endpoint])


@pytest.mark.parametrize(
    "keys", [{"uid": "caption"}, {"uid": "url"}, {"caption": "url"}, {"keep_columns": ["uid", "uid"]}]
)
def test_one_column_for_two_keys(place, keys):
    content = valid(place)
    content["source"].update(keys)
    refused(place, run(place, yaml.safe_dump(content)))


@pytest.mark.parametrize(
    "override",
    [
        "",
        "x",
        "=x",
        "=",
        "a..b=1",
        ".=1",
        "seed.=1",
        "seed=[",
        "seed=&a [*a]",
        "seed=2024-99-99",
        "seed=" + "[" * 5000,
        "seed=" + "9" * 5000,
        "seed=\0",
        "seed=\ud800",
        "output=\ud800",
        "fetch=~",
        "fetch.timeout.x=1",
        "a" * 100_000 + "=1",
        "seed=!!timestamp x",
        "." * 3000 + "=1",
        "fetch." + "x." * 3000 + "y=1",
        "select=1",
        "select.0=1",
        "source=1",
        "source.paths.0.x=1",
        "source.paths.٠=nope.csv",
        "source.paths.5=1",
        "part_size=1e13",
        "fetch.timeout=.inf",
        "fetch.timeout=true",
        "seed=0.5",
        "pack=[]",
        "models={}",
        "models.pocket=~",
        "workers.fetch.count=٣",
    ],
    ids=lambda text: ascii(text[:30]),
)
def test_overrides(place, override):
    refused(place, run(place, yaml.safe_dump(valid(place)), "--set", override))


COMMANDS = (
    {
        "nothing": [],
        "an unknown command": ["nope"],
        "no recipe": ["run"],
        "a blank recipe": ["run", ""],
        "no such recipe": ["run", "nope.yaml"],
        "a folder for a recipe": ["run", "folder"],
        "an endless recipe": ["run", "/dev/zero"],
        "a recipe of one word": ["run", "file"],
        "two recipes": ["run", "file", "file"],
        "an unknown option": ["run", "file", "--bogus"],
        "an unknown engine": ["run", "file", "--engine", "x"],
        "an unknown pass": ["run", "file", "--until", "x"],
        "an address without ray": ["run", "recipe.yaml", "--engine", "local", "--address", "auto"],
        "classes": ["retry-failed", "folder", "--class", "nope"],
        "no classes": ["retry-failed", "folder", "--class", ","],
        "a pair of a run that is none": ["explain", "folder", "00"],
        "no pair": ["explain", "folder"],
        "a pair and a limit": ["duplicates", "folder", "00112233", "--limit", "3"],
    }
    | {
        f"{name} {value!r}": ["run", "recipe.yaml", name, value]
        for name, values in {
            "--sample": ["nan", "inf", "-inf", "0", "-0.5", "1.1", "x", "", "٠.٥", "1e999"],
            "--address": ["", " ", "nonsense", "127.0.0.1:99999", "127.0.0.1:0", "a b:1", "ray://"],
            "--set": ["", "x"],
        }.items()
        for value in values
    }
    | {
        f"duplicates --limit {value!r}": ["duplicates", "folder", "--limit", value]
        for value in ("0", "-1", "x", "1.5", "")
    }
    | {
        f"demo {name} {value!r}": ["demo", "--engine", "local", name, value]
        for name, values in {
            "--pairs": ["0", "-1", "x", "", "9" * 30, "٣", "1.5", "1_0"],
            "--seed": ["x", "9" * 30, "1.5", ""],
            "--port": ["0", "-1", "65536", "99999", "٣٣", "22x", ""],
            "--output": [*PLACES, "file"],
            "--web": ["", "~", "file", "file/x", "s3://bucket/web", "a\0b"],
            "--set": ["x", "seed=x", "output=~", "fetch.timeout=.nan"],
        }.items()
        for value in values
    }
)


@pytest.mark.parametrize("name", list(COMMANDS), ids=lambda name: ascii(name[:40]))
def test_commands(place, name):
    run(place, yaml.safe_dump(valid(place)))
    refused(place, COMMANDS[name])


@pytest.mark.parametrize("command", ["status", "verify", "explain", "duplicates", "retry-failed"])
@pytest.mark.parametrize("folder", [*PLACES, "nope", "file", "folder", "/dev/null"], ids=lambda text: ascii(text[:20]))
def test_runs_that_are_none(place, command, folder):
    refused(place, [command, folder, *(["00112233"] if command == "explain" else [])])


# Values of each sort; where one is right for its key, the recipe is accepted.
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**13, 10**30, -1, 0, float("inf"), float("nan"), 1e300, 0.5])
    | st.sampled_from(
        ["", " ", "~", "a\0", "a\r\nb", "٣٣", "memory://x", "x" * 20_001, "2024-99-99", "1e13", "😀", "\ud800"]
    )
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def paths(schema, depth=0):
    """Dotted keys of a recipe, from its JSON schema."""
    root = Recipe.model_json_schema()
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    for branch in schema.get("anyOf", [schema]):
        while "$ref" in branch:
            branch = root["$defs"][branch["$ref"].rpartition("/")[2]]
        inside = list(branch.get("properties", {}).items())
        inside += [("a", entry) for entry in branch.get("patternProperties", {}).values()]
        if isinstance(branch.get("items"), dict):
            inside.append((0, branch["items"]))
        for name, inner in inside:
            yield (name,)
            for more in paths(inner, depth + 1) if depth < 5 else ():
                yield (name, *more)


KEYS = sorted(set(paths(Recipe.model_json_schema())), key=str)


def placed(content, path, value):
    """Puts a value at a place of a recipe, and makes what is missing above it."""
    at = content
    for word, following in itertools.pairwise(path):
        empty = [] if following == 0 else {}
        if isinstance(at, list):
            at[:] = at or [copy.copy(empty)]
            at[0] = at[0] if isinstance(at[0], type(empty)) else copy.copy(empty)
            at = at[0]
        else:
            at[word] = at[word] if isinstance(at.get(word), type(empty)) else copy.copy(empty)
            at = at[word]
    if isinstance(at, list):
        at[:] = [value]
    else:
        at[path[-1]] = value
    return content


def one_line_or_accepted(place, arguments):
    """Whatever the input, it is accepted, or it ends as `refused` says."""
    before = files(place)
    code, lines = outcome(arguments)
    COUNTS["accepted" if code == "accepted" else "wrong"] += 1
    if code != "accepted":
        is_right = code == Exit.WRONG and len(lines) == 1 and lines[0].startswith("curate: ")
        COUNTS["faults"] += not is_right
        assert is_right, (code, lines)
        assert lines[0].isprintable()
    assert files(place) == before


def dumped(content):
    """YAML, or where YAML cannot hold a value, JSON, which YAML reads."""
    try:
        return yaml.safe_dump(content)
    except (yaml.YAMLError, UnicodeError):
        return json.dumps(content)


class Generated:
    """Recipes by hypothesis; `Soaked` below tries many more of them."""

    EXAMPLES = 30

    def test_any_value_at_any_key(self, place):
        @settings(max_examples=self.EXAMPLES, suppress_health_check=list(HealthCheck))
        @given(path=st.sampled_from(KEYS), value=values)
        def check(path, value):
            content = placed(valid(place), path, value)
            arguments = run(place, dumped(content))
            one_line_or_accepted(place, arguments)

        check()

    def test_any_text_in_a_recipe(self, place):
        text = yaml.safe_dump(valid(place), default_flow_style=True)
        noise = st.text(alphabet="[]{}&*a1:-,? !<|>'\"#%\n\t~.\0é", min_size=1, max_size=12)

        @settings(max_examples=self.EXAMPLES, suppress_health_check=list(HealthCheck))
        @given(at=st.integers(0, len(text)), cut=st.integers(0, 12), noise=noise | st.binary(min_size=1, max_size=8))
        def check(at, cut, noise):
            put_in = noise if isinstance(noise, bytes) else noise.encode()
            one_line_or_accepted(place, run(place, text[:at].encode() + put_in + text[at + cut :].encode()))

        check()


class TestSlice(Generated):
    """What `make test` tries."""


@pytest.mark.soak
class TestSoaked(Generated):
    """What `make soak` tries: at least 500 wrong recipes."""

    EXAMPLES = 600

    def test_the_counts(self, soak_figures):
        soak_figures.update({"recipes": COUNTS["wrong"], "not_one_line": COUNTS["faults"]})
        assert COUNTS["wrong"] >= 500
        assert not COUNTS["faults"]
