"""A list format is one file: found by itself, the only one of its name and suffixes, and asked for by no name."""

import ast
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
from helpers.plan_run import rows_of, run_plan, source

import curate.plan
from curate.errors import SourceError, UsageError
from curate.plan.cells import TextValues
from curate.plan.formats import registry
from curate.plan.formats.contract import Chunk, Dialect, Format, ListFile
from curate.plan.formats.registry import FORMATS, by_suffix, list_file
from curate.plan.formats.text import batched, text
from curate.registry import Registry


class Bars(Format):
    """Cells between bars, as somebody else's package may bring it."""

    name = "bars"
    suffixes = ("bars", "bar")
    values = TextValues()

    def chunks(self, file: ListFile, dialect: Dialect, wanted: Sequence[str] | None) -> Generator[Chunk, None, None]:
        with text(file) as lines:
            names = next(lines).strip().split("|")
            for batch in batched(line.strip() for line in lines):
                rows = [line.split("|") for line in batch]
                yield Chunk(len(rows), {name: [row[at] for row in rows] for at, name in enumerate(names)})


@pytest.fixture
def formats(monkeypatch: pytest.MonkeyPatch) -> Registry[Format]:
    """The formats there are, in a registry that a test may add to."""
    copied: Registry[Format] = Registry("list format", Format)  # type: ignore[type-abstract]
    for name in FORMATS:
        copied.add(FORMATS[name], FORMATS.origin(name))
    monkeypatch.setattr(registry, "FORMATS", copied)
    return copied


def test_every_module_that_offers_a_format_is_found():
    folder = Path(curate.plan.__file__).parent / "formats"
    offering = {path.stem for path in folder.glob("*.py") if "\nFORMAT = " in path.read_text()}
    assert {FORMATS.origin(name).rpartition(".")[2] for name in FORMATS} == offering
    assert {"csv", "tsv", "parquet", "jsonl", "txt"} <= set(by_suffix())


def test_a_format_of_somebody_else_is_read_like_ours(tmp_path: Path, formats: Registry[Format]):
    formats.add(Bars(), "bars 1.0")
    (tmp_path / "a.bar").write_text("url|caption|n\nhttp://a|a cat|1\nhttp://b||x\n")
    (tmp_path / "b.csv").write_text("url,caption,n\nhttp://c,c,3\n")
    table = rows_of(run_plan(tmp_path / "run", source(tmp_path / "a.bar", tmp_path / "b.csv"))[0])
    assert table["url"].to_pylist() == ["http://a", "http://b", "http://c"]
    assert table["source_n"].to_pylist() == ["1", "x", "3"]


def test_two_formats_do_not_share_a_name_or_a_suffix(formats: Registry[Format]):
    class Other(Bars):
        name = "csv"

    class Same(Bars):
        suffixes = ("psv", "tsv")

    with pytest.raises(
        UsageError, match=r"the list format 'csv' is defined twice: by curate\.plan\.formats\.delimited and by x$"
    ):
        formats.add(Other(), "x")
    formats.add(Same(), "y 2")
    with pytest.raises(UsageError, match=r"claim the suffix \.tsv: curate\.plan\.formats\.delimited and y 2$"):
        list_file("a.parquet")


@pytest.mark.parametrize("name", ["a", "a.avro", "a.gz", "a.csv.bz2", "csv/a", "a.parquet.gz"])
def test_what_no_format_claims_is_refused_with_the_known_suffixes(name: str):
    with pytest.raises(SourceError, match=f"{name}: a list's name ends in .*") as error:
        list_file(name)
    assert all(f".{suffix}" in str(error.value) for suffix in by_suffix())


def test_no_module_beside_the_formats_names_one():
    """Otherwise a further format would fall into somebody's `else`."""
    known = {*FORMATS, *by_suffix()} - {"txt"}  # of samples, `.txt` is the caption's suffix
    for path in Path(curate.plan.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        named = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} & known
        assert not named, f"{path.name} names {named}"
