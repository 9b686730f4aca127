import hashlib

import pytest

from curate.errors import RecipeError
from curate.fetch.pictures.blocklist import Blocklist, read


def digests(body):
    return hashlib.sha256(body).hexdigest(), hashlib.md5(body).hexdigest()


def test_both_kinds_of_digest_are_known(tmp_path):
    sha, md5 = digests(b"bad")[0], digests(b"worse")[1]
    path = tmp_path / "bad.txt"
    path.write_text(f"# known\n\n{sha.upper()}  some/file.jpg\n  {md5} # why\n")
    listed = read([str(path)])
    for body, named in ((b"bad", True), (b"worse", True), (b"good", False)):
        assert listed.names(body, digests(body)[0]) == named
    only_sha = Blocklist(frozenset([bytes.fromhex(sha)]))
    assert only_sha.names(b"bad", sha)
    assert not only_sha.names(b"worse", digests(b"worse")[0])


def test_the_fingerprint_is_of_the_content(tmp_path, monkeypatch):
    one, other = digests(b"1")[0], digests(b"2")[1]
    (tmp_path / "a").write_text(f"{one}\n{other}\n")
    (tmp_path / "b").write_text(f"{other}\n")
    (tmp_path / "c").write_text(f"{one} x\n{one}\n")
    whole = read([str(tmp_path / "a")]).fingerprint
    assert (
        whole == read([str(tmp_path / "b"), str(tmp_path / "c")]).fingerprint != read([str(tmp_path / "b")]).fingerprint
    )
    assert read([]).fingerprint == ""
    monkeypatch.chdir(tmp_path)
    assert read(["a"]).fingerprint == whole


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abc\n", "line 1"),
        (b"\n" + b"0" * 63 + b"\n", "line 2"),
        (b"\xff\xfe", "cannot be read"),
        (None, "No such file"),
    ],
)
def test_a_list_that_is_none(tmp_path, content, message):
    path = tmp_path / "list"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=message) as caught:
        read([str(path)])
    assert "\n" not in str(caught.value)
