"""Credentials in URLs: refused, or read and never kept; no file and no line of a run holds one."""

import http.server
import re
import threading
from pathlib import Path
from typing import Self

import pyarrow.parquet as pq
import pytest
import yaml
from aiohttp import ClientResponseError, RequestInfo
from helpers.fetch_samples import picture
from helpers.hostile_server import HostileServer, ok
from helpers.inline_engine import InlineEngine
from helpers.sample_run import sample, write_tar
from helpers.works import Silent, single
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from curate.commands.main import main
from curate.credentials import has_user_info, is_redacted, is_signed, redacted, shown, without_signature
from curate.errors import RecipeError
from curate.recipe import parse
from curate.runs.driver import drive
from curate.runs.surroundings import fault
from curate.store import Folder, Store

pytestmark = pytest.mark.usefixtures("in_process")

SECRET = "s3cretS1gnature0123456789abcdef"
OTHER = "0therS1gnature9876543210fedcba"

SIGNED = [
    (f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F2026&X-Amz-Signature={SECRET}", ""),
    (f"X-Amz-SignedHeaders=host;{SECRET}&x=1", "x=1"),
    (f"versionId=3&AWSAccessKeyId=AKIA&Expires=1&Signature={SECRET}", "versionId=3"),
    (f"X-Goog-Signature={SECRET}&X-Goog-Expires=60", ""),
    (f"sv=2024-11-04&se=2026-12-01&sr=b&sp=r&sig={SECRET}%3D", ""),
    (f"token={SECRET}", ""),
    (f"%74oken={SECRET}&download=true", "download=true"),
    (f"a=1;sig={SECRET}", "a=1"),
    (f"Policy=eyJ&Key-Pair-Id=K&Signature={SECRET}", ""),
    (SECRET, ""),
]

USER_INFO = [
    f"http://user:{SECRET}@host/a.csv",
    f"https://{SECRET}@host/a.csv",
    f"s3://key:{SECRET}@bucket/a.csv",
    f"s3://key:{SECRET}/x+y@bucket/a.csv",
    f"s3://key:123/{SECRET}@bucket/a.csv",
    f"simplecache::https://user:{SECRET}@host/a.csv",
    f"zip://a.csv::https://user:{SECRET}@host/a.zip",
    f"sftp://user:{SECRET}@host/a.csv",
    f"abfs://user:{SECRET}@account/a.csv",
]

NO_USER_INFO = [
    "https://host:8080/a@b.csv",
    "http://[::1]:80/a@b.csv",
    "s3://bucket/a@b:c.csv",
    "s3://arn:aws:s3:eu-west-1:1:accesspoint/a/b@c.csv",
    "abfs://container@account.dfs.core.windows.net/a.csv",
    "hf://datasets/owner/name@main/a.csv",
    "a@b:c.csv",
    "/lists/a:b@c.csv",
]


@pytest.mark.parametrize(("query", "left"), SIGNED)
def test_a_signature_is_hidden_and_the_rest_of_a_url_stays(query: str, left: str) -> None:
    url = f"https://host/lists/a.csv?{query}"
    assert is_signed(url)
    assert without_signature(url) == "https://host/lists/a.csv" + (f"?{left}" if left else "")
    assert SECRET not in shown(url)
    assert shown(shown(url)) == shown(url)
    assert is_redacted(shown(url))
    assert not is_redacted(url)
    for line in (f"403, url='{url}'", f"no answer from {url}, tried twice", f"({url})"):
        assert SECRET not in redacted(line)


@pytest.mark.parametrize(
    "url",
    [
        "https://host/a.csv?download=true&versionId=3HL4kqtJlcpXroDTDmJ",
        "https://host/a.csv",
        "s3://bucket/part-?.csv",
        "lists/token=1/a?sig=x.csv",
        "https://host/a.csv?Expires=1",
    ],
)
def test_a_url_without_a_signature_stays(url: str) -> None:
    assert (shown(url), without_signature(url), is_signed(url)) == (url, url, False)
    if "://" in url:
        assert redacted(f"{url} cannot be read") == f"{url} cannot be read"


@pytest.mark.parametrize("url", USER_INFO)
def test_user_info_is_found_and_hidden(url: str) -> None:
    assert has_user_info(url)
    assert SECRET not in redacted(f"no answer from {url}: tried twice")


@pytest.mark.parametrize("url", NO_USER_INFO)
def test_no_user_info_is_found_where_there_is_none(url: str) -> None:
    assert not has_user_info(url)
    assert redacted(f"{url} is empty") == f"{url} is empty"


PLACES = [
    "source.paths.0",
    "output",
    "storage.endpoint",
    "fetch.blocklists.0",
    "fetch.phash_blocklists.0",
    "models.m.name",
    "models.m.pretrained",
    "signals.heads.h.path",
    "signals.targets.t.images.0",
    "signals.phrases.p.file",
]


def recipe_with(place: str, value: object, tmp_path: Path) -> dict:
    """A recipe that has a value at a dotted place."""
    content: dict = {
        "version": 1,
        "source": {"paths": [str(tmp_path / "list.csv")]},
        "output": str(tmp_path / "run"),
        "models": {"pocket": {"name": "pocket"}, "m": {"name": "ViT-B-32", "pretrained": "openai"}},
    }
    path, is_list = (place.removesuffix(".0"), place.endswith(".0"))
    *sections, last = path.split(".")
    at = content
    for word in sections:
        at = at.setdefault(word, {})
    at[last] = [value] if is_list else value
    return content


def refused(content: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """The one line with which a recipe is refused, before anything is written; it never holds the secret."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    before = sorted(tmp_path.rglob("*"))
    assert main(["run", str(folder / "recipe.yaml"), *more]) == 2
    assert sorted(tmp_path.rglob("*")) == before
    out, err = capsys.readouterr()
    assert SECRET not in out + err
    assert (out, err.count("\n")) == ("", 1)
    return err


@pytest.mark.parametrize("place", PLACES)
def test_user_info_is_refused_in_every_place(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(recipe_with(place, USER_INFO[2], tmp_path), tmp_path, capsys)
    assert place.removesuffix(".0") in said
    assert "AWS_ACCESS_KEY_ID" in said


@pytest.mark.parametrize("url", USER_INFO)
def test_every_form_of_user_info_is_refused(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "source.paths" in refused(recipe_with("source.paths.0", url, tmp_path), tmp_path, capsys)


@pytest.mark.parametrize("place", PLACES[1:])
def test_a_signature_is_refused_where_it_would_be_stored(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"https://host/a.json?X-Amz-Signature={SECRET}"
    said = refused(recipe_with(place, url, tmp_path), tmp_path, capsys)
    assert place.removesuffix(".0") in said
    assert "only source.paths may be" in said


@pytest.mark.parametrize(
    "setting",
    [
        f"source.paths=[{USER_INFO[0]}",
        f"source.paths=[{USER_INFO[0]}]",
        f"source.pahts=[{USER_INFO[0]}]",
        f"source.paths.7={USER_INFO[0]}",
        f"output.x={USER_INFO[0]}",
        USER_INFO[0],
        f"https://host/a.csv?{SIGNED[-1][0]}",
        f"source.paths={{'{USER_INFO[0]}': 1}}",
        f"{{'{USER_INFO[0]}': 1}}=1",
    ],
)
def test_a_wrong_setting_is_not_repeated(setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(recipe_with("seed", 1, tmp_path), tmp_path, capsys, "--set", setting)


@pytest.mark.parametrize(
    "text",
    [
        f"source: {{paths: [{USER_INFO[0]}\noutput: x",
        f"version: 1\nsource: paths: {USER_INFO[0]}\n",
        f"version: 1\n{USER_INFO[0]}\n",
        f"paths: [{USER_INFO[0]}]\nversion: 1\n",
        f"version: 1\nsource: *{SECRET}\n",
        f"- {USER_INFO[0]}\n",
    ],
)
def test_a_broken_recipe_is_not_quoted(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    assert main(["run", str(tmp_path / "recipe.yaml")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"user:{SECRET}" not in err
    assert "http://" not in err


@pytest.mark.parametrize(
    "command", [["status"], ["verify"], ["retry-failed"], ["duplicates"], ["explain", "--", None, "0" * 8]]
)
def test_a_run_named_with_user_info_is_refused(command: list, capsys: pytest.CaptureFixture[str]) -> None:
    words = [USER_INFO[2] if word is None else word for word in command]
    words += [] if None in command else [USER_INFO[2]]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert SECRET not in out + err
    assert (out, err.count("\n")) == ("", 1)


class Web:
    """A web server of lists that takes one signature at a time, on the loopback interface.

    Args:
        content: by path.
        states_etag: whether answers have an ETag.

    After the request number `last` the signature has expired.
    """

    def __init__(self, content: dict[str, bytes], *, states_etag: bool = True) -> None:
        self.content, self.signature, self.asked, self.last = content, SECRET, 0, 10**6
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                # As S3 answers a HEAD request for a URL that was signed for GET.
                self.send_error(403)

            def do_GET(self) -> None:
                web.asked += 1
                path, _, query = self.path.partition("?")
                if f"X-Amz-Signature={web.signature}" not in query.split("&") or web.asked > web.last:
                    self.send_error(403)
                    return
                data = web.content[path]
                start, end = 0, len(data)
                if asked := self.headers.get("Range"):
                    first, _, last = asked.removeprefix("bytes=").partition("-")
                    start, end = int(first), min(end, int(last) + 1 if last else end)
                self.send_response(206 if asked else 200)
                self.send_header("Content-Length", str(end - start))
                self.send_header("Accept-Ranges", "bytes")
                if asked:
                    self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
                if states_etag:
                    self.send_header("ETag", f'"{hash(data):x}"')
                self.end_headers()
                self.wfile.write(data[start:end])

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def url(self, path: str, signature: str | None = None) -> str:
        """A signed URL."""
        signed = f"X-Amz-Credential=AKIA{signature or self.signature}&X-Amz-Signature={signature or self.signature}"
        return f"http://127.0.0.1:{self._server.server_port}{path}?X-Amz-Algorithm=AWS4-HMAC-SHA256&{signed}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def said(capfd: pytest.CaptureFixture[str], run: Path) -> str:
    """What commands printed; neither that nor any file of the run holds a secret."""
    out, err = capfd.readouterr()
    files = [path for path in run.rglob("*") if path.is_file()]
    for secret in (SECRET, OTHER):
        assert secret not in out + err
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
        assert [path for path in run.rglob("*") if secret in path.name] == []
        for table in run.rglob("*.parquet"):
            assert secret not in str(pq.read_table(table).to_pydict())
    return out + err


@pytest.mark.parametrize("states_etag", [True, False])
def test_no_file_and_no_line_of_a_run_over_a_signed_list_has_the_signature(
    states_etag: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with HostileServer() as images:
        lines = ["url,caption,n", "http://127.0.0.1:1/none,,x"]
        for number in range(4):
            images.answers[f"/{number}.jpg"] = ok(picture(number))
            lines.append(f"{images.url(f'/{number}.jpg')},a drawing of number {number},{number}")
        # Rows that the plan notes, with the list's path.
        data = ("\n".join(lines) + f"\n{images.url('/5.jpg')},of more,5,cells\n").encode()
        with Web({"/lists/a.csv": data}, states_etag=states_etag) as web:
            content: dict = {
                "version": 1,
                "source": {"paths": [web.url("/lists/a.csv")]},
                "output": str(tmp_path / "run"),
                "fetch": {"allow": [images.address], "retries": 0, "min_success": 0},
                "signals": {"phrases": {"drawn": {"phrases": ["drawing"]}}},
                "select": [{"drop": "top", "keep_top": {"of": "clip_similarity", "fraction": 1.0}}],
            }
            recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
            recipe.write_text(yaml.safe_dump(content))
            assert main(["run", str(recipe), "--engine", "local"]) == 0
            printed = said(capfd, run)
            assert "a.csv?signature=REDACTED" in printed
            store = Store(str(run))
            stored = store.read_json("recipe.json")["source"]["paths"]
            assert stored == [shown(content["source"]["paths"][0])]
            [file] = store.read_json("run.json")["source"]
            assert (file["path"], file["name"], file["size"]) == (stored[0], "a.csv", len(data))
            [plan] = [Folder.at(store, name) for name in store.folders() if name.startswith("plan-")]
            assert plan.table("pairs.parquet", 0).num_rows == 6

            # The same list by a URL that was signed again: the same run, with nothing to do.
            before = store.folders()
            web.signature = OTHER
            again = ["run", str(recipe), "--engine", "local", "--set", f"source.paths=['{web.url('/lists/a.csv')}']"]
            assert main(again) == 0
            assert store.folders() == before
            for command in (["status"], ["verify"], ["verify", "--deep"]):
                assert main([*command, str(run)]) == 0
            said(capfd, run)

            # retry-failed asks for the URL, as the run has not kept it.
            retry = ["retry-failed", str(run), "--engine", "local", "--class", "http_4xx,connection"]
            assert main(retry) == 2
            printed = said(capfd, run)
            assert printed.count("\n") == 1
            assert "--set source.paths=" in printed
            asked = web.asked
            assert main([*retry, *again[-2:]]) == 0
            assert web.asked > asked
            said(capfd, run)

            # A signature that has expired is one line.
            assert main(["run", str(recipe), "--engine", "local"]) == 2
            printed = said(capfd, run)
            assert printed.count("\n") == 1
            assert "its signature has expired" in printed

            # Other content is another source, whatever the signature.
            web.content["/lists/a.csv"] = data.replace(b"number 3", b"number 4")
            assert main(again) == 2
            assert "another source" in said(capfd, run)


def test_samples_are_read_from_a_signed_tar(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tar = write_tar(tmp_path / "a.tar", [*sample("0", 0, "a drawing"), *sample("1", 1, "another drawing")])
    with Web({"/a.tar": tar.read_bytes()}) as web:
        content = {
            "version": 1,
            "source": {"kind": "samples", "paths": [web.url("/a.tar")]},
            "output": str(tmp_path / "run"),
        }
        recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
        recipe.write_text(yaml.safe_dump(content))
        assert main(["run", str(recipe), "--engine", "local", "--until", "fetch"]) == 0
        said(capfd, run)
        store = Store(str(run))
        folders = {name.partition("-")[0]: Folder.at(store, name) for name in store.folders() if "-" in name}
        assert folders["plan"].table("pairs.parquet", 0)["url"].to_pylist()[0].startswith("sample:a.tar/")
        assert folders["fetch"].table("images.parquet", 0)["error_class"].null_count == 2
        # The signature expires after the checks of a command: it stops, and does not wait for another signature.
        asked = web.asked
        command = ["run", str(recipe), "--engine", "local", "--until", "fetch", "--set", "fetch.quality=90"]
        assert main([*command, "--dry-run"]) == 0
        web.last = web.asked + (web.asked - asked)
        assert main(command) == 2
        assert "its signature may have expired" in said(capfd, run)
        web.last = 10**6
        assert main(command) == 0
        said(capfd, run)
        web.content["/a.tar"] = web.content["/a.tar"][:700]
        other = ["--set", f"output={run}-2"]
        assert main(["run", str(recipe), "--engine", "local", "--until", "fetch", *other]) == 2
        assert said(capfd, run).count("\n") == 1


def test_a_file_that_two_signatures_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Web({"/a.csv": b"url,caption\nhttp://a,a\n"}) as web:
        content = recipe_with("source.paths.0", web.url("/a.csv"), tmp_path)
        content["source"]["paths"].append(f"{web.url('/a.csv')}&X-Amz-Date=1")
        del content["models"]["m"]
        assert "named twice" in refused(content, tmp_path, capsys)


def test_a_stored_url_asks_for_the_signed_one(tmp_path: Path) -> None:
    content = recipe_with("source.paths.0", shown(f"https://host/a.csv?sig={SECRET}"), tmp_path)
    with pytest.raises(RecipeError, match=r"give the signed URL again"):
        parse(content)


def test_the_records_of_a_part_that_fails_have_no_credentials(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    url = f"https://user:{SECRET}@host/a.csv?sig={OTHER}"
    work = single(store, "names", [0, 1], url=url)
    found = drive([work], InlineEngine(), Silent(), max_failed=1.0)["out"]
    assert [re.sub(r".*: ", "", found[unit]) for unit in (0, 1)] == [
        "no answer from https://REDACTED@host/a.csv?signature=REDACTED"
    ] * 2
    kept = [path.read_text() for path in (tmp_path / "run").rglob("*.json")]
    assert any("Traceback" in text for text in kept)
    assert not any(SECRET in text or OTHER in text for text in kept)


@pytest.mark.parametrize(("status", "kind"), [(403, None), (404, None), (410, None), (429, "away"), (503, "away")])
def test_a_refusal_of_a_web_server_is_not_waited_for(status: int, kind: str | None) -> None:
    about = RequestInfo(URL(f"https://host/a.csv?sig={SECRET}"), "GET", CIMultiDictProxy(CIMultiDict()))
    error = ClientResponseError(about, (), status=status, message="no")
    found = fault(error)
    assert (found.kind if found else None) == kind
    assert SECRET not in (found.text if found else "")
