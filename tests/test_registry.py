"""Things of a kind are found by themselves, and no name stands for two of them."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from curate.errors import RecipeError, UsageError
from curate.registry import Registry


@dataclass(frozen=True)
class Shape:
    name: str
    corners: int = 0


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the module path; what was imported from it is forgotten again."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def install(site: Path, package: str, value: str, source: str, name: str = "hexagon") -> None:
    """A package as pip leaves it: its module, its metadata and its entry point."""
    put(site / f"{package}.py", source)
    folder = site / f"{package}-1.2.dist-info"
    put(folder / "METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    put(folder / "entry_points.txt", f"[test.shapes]\n{name} = {value}\n")


SHAPE = "from tests_shape import Shape\nSHAPE = {}\n"


@pytest.fixture
def shapes(site: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[Shape]:
    monkeypatch.setitem(sys.modules, "tests_shape", sys.modules[__name__])
    put(site / "shapes" / "__init__.py", "")
    put(site / "shapes" / "triangle.py", SHAPE.format("Shape('triangle', 3)"))
    put(site / "shapes" / "four.py", SHAPE.format("(Shape('square', 4), Shape('kite', 4))"))
    put(site / "shapes" / "common.py", "CORNERS = 'a module without a shape'\n")
    put(site / "shapes" / "inner" / "__init__.py", "raise AssertionError('a package inside is not entered')\n")
    return Registry("shape", Shape, package="shapes", attribute="SHAPE", group="test.shapes")


def test_every_module_is_found_when_it_is_first_asked_for(site: Path, shapes: Registry[Shape]):
    put(site / "shapes" / "late.py", SHAPE.format("Shape('late')"))
    assert "shapes.four" not in sys.modules
    assert list(shapes) == ["square", "kite", "late", "triangle"]
    assert len(shapes) == 4
    assert shapes["triangle"] == shapes.find("triangle") == Shape("triangle", 3)
    assert shapes.origin("kite") == "shapes.four"


def test_an_unknown_name_names_the_nearest_or_all(shapes: Registry[Shape]):
    with pytest.raises(RecipeError, match=r"^there is no shape 'squre'; did you mean 'square'\?$"):
        shapes.find("squre")
    with pytest.raises(RecipeError, match=r"^there is no shape 'x'; known: kite, square, triangle$"):
        shapes.find("x")
    assert shapes.get("x") is None


def test_a_second_thing_of_one_name_is_refused_with_both_origins(site: Path, shapes: Registry[Shape]):
    put(site / "shapes" / "again.py", SHAPE.format("Shape('kite')"))
    for _ in range(2):  # A registry that could not be loaded is not an empty one the next time.
        with pytest.raises(UsageError, match=r"'kite' is defined twice: by shapes\.again and by shapes\.four$"):
            shapes.find("triangle")


def test_things_are_added_by_programs(shapes: Registry[Shape]):
    shapes.add(Shape("circle"), "a notebook")
    assert shapes.origin("circle") == "a notebook"
    with pytest.raises(UsageError, match=r"the shape 'circle' is defined twice: by a notebook and by another$"):
        shapes.add(Shape("circle"), "another")
    with pytest.raises(UsageError, match="a notebook is not a shape: expected Shape, found str"):
        shapes.add("circle", "a notebook")  # type: ignore[arg-type]


def test_other_packages_bring_things(site: Path, shapes: Registry[Shape]):
    install(site, "hexagons", "hexagons:SHAPE", SHAPE.format("Shape('hexagon', 6)"))
    assert shapes.find("hexagon").corners == 6
    assert list(shapes)[-1] == "hexagon"
    assert shapes.origin("hexagon") == "hexagons 1.2 (hexagons:SHAPE)"


def test_a_package_that_claims_a_name_of_ours_is_named(site: Path, shapes: Registry[Shape]):
    install(site, "hexagons", "hexagons:SHAPE", SHAPE.format("Shape('kite', 6)"))
    with pytest.raises(UsageError, match=r"twice: by shapes\.four and by hexagons 1\.2 \(hexagons:SHAPE\)$"):
        shapes.find("kite")


@pytest.mark.parametrize(
    ("value", "source", "reason"),
    [
        ("hexagons:SHAPE", "import nowhere_to_be_found\n", "No module named 'nowhere_to_be_found'"),
        ("hexagons:SHAPE", "SHAPES = 1\n", "no attribute 'SHAPE'"),
        ("nowhere_to_be_found:SHAPE", "", "No module named 'nowhere_to_be_found'"),
        ("hexagons:SHAPE", "def :\n", "SyntaxError: invalid syntax"),
        ("hexagons:SHAPE", "raise ValueError('two\\nlines')\n", "ValueError: two lines"),
    ],
)
def test_a_broken_package_is_one_line(site: Path, shapes: Registry[Shape], value: str, source: str, reason: str):
    install(site, "hexagons", value, source)
    with pytest.raises(UsageError) as error:
        shapes.find("kite")
    assert str(error.value).startswith(f"the shape 'hexagon' of hexagons 1.2 ({value}) cannot be loaded: ")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_package_that_brings_something_else_is_named(site: Path, shapes: Registry[Shape]):
    install(site, "hexagons", "hexagons:SHAPE", "SHAPE = 6\n")
    with pytest.raises(UsageError, match=r"hexagons 1\.2 \(hexagons:SHAPE\) is not a shape: expected Shape, found int"):
        shapes.find("kite")
