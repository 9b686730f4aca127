"""Writes the code map of docs/architecture.md from the first line of every module's docstring.

    python docs/code_map.py

`tests/test_house.py` fails where the map is not what this script writes.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- code map: python docs/code_map.py -->", "<!-- end of the code map -->"
ORDER = (
    "", "plan", "fetch", "embed", "signals", "dedup", "select", "pack", "report", "runs", "engine", "commands", "demo",
)  # fmt: skip
"""The rooms in the order in which they are listed; others follow by name."""


def code_map() -> str:
    """The map: a heading and a table for the top level and for every room, sub-rooms after their room."""
    folders = sorted({path.parent.relative_to(ROOT / "curate").as_posix() for path in (ROOT / "curate").rglob("*.py")})
    rooms = [folder.removeprefix(".") for folder in folders]
    rooms.sort(key=lambda room: (ORDER.index(top) if (top := room.partition("/")[0]) in ORDER else len(ORDER), room))
    return "\n".join(line for room in rooms for line in _table(room))


def _table(room: str) -> list[str]:
    folder = ROOT / "curate" / room
    files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    if not files:
        return []
    about = _first_line(folder / "__init__.py")
    return [
        f"### `curate/{room}/`" if room else "### `curate/`",
        "",
        about,
        "",
        "| file | what it is |",
        "|---|---|",
        *(f"| `{path.name}` | {_first_line(path)} |" for path in files),
        "",
    ]


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].replace("|", "\\|")


def page() -> str:
    """The page with the map in it."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{code_map()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
