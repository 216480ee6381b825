"""docs/architecture.md is what docs/rooms.py draws, and that reads imports rightly."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(DOCS))
    import rooms

    return rooms


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A package of three rooms: attic over hall over cellar, and a circle inside the attic."""
    files = {
        "__init__.py": "",
        "attic/__init__.py": '"""Old  things.\n\nMore."""\n',
        "attic/a.py": "from unpaired.attic import b\nimport unpaired.hall\n",
        "attic/b.py": "def f():\n    from unpaired.attic.a import x\n",
        "hall.py": '"""Coats. And hats."""\nfrom unpaired.cellar import wine\n'
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import unpaired.attic.a\n",
        "cellar/__init__.py": '"""Wine and\ncoal."""\nwine = 1\n\n'
        "def six(self, a, b, c, d, e, f, *args, **kwargs): ...\n\n\n"
        "def seven(a, b, c, d, /, e, *, f, g): ...\n",
        "top.py": '"""The roof."""\nimport unpaired.attic, unpaired.cellar\n',
    }
    for name, text in files.items():
        path = tmp_path / "unpaired" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "unpaired"


def test_the_map_is_current() -> None:
    script = [sys.executable, str(DOCS / "rooms.py")]
    drawn = subprocess.run(script, capture_output=True, text=True, check=True, encoding="utf-8")
    written = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert written == drawn.stdout, "rooms import otherwise than before: run `make map`"


def test_no_circle_and_no_crowded_room(rooms: ModuleType) -> None:
    """Of the functions with many parameters nine are verbs, whose parameters are their options."""
    modules = rooms.read_modules(rooms.SOURCE)
    found = dict(rooms.figures(modules))
    assert found["circles of imports at the top of files"] == "none"
    assert found["circles of imports anywhere below the face"] == "none"
    assert found["circles of rooms"] == "none"
    assert found["functions with more than 6 parameters"] <= 15
    assert max(sum(m.room == room for m in modules.values()) for room in rooms.levels(
        rooms.room_graph(modules))) <= 20  # fmt: skip


def test_every_room_says_its_purpose(rooms: ModuleType) -> None:
    doors = [m for m in rooms.read_modules(rooms.SOURCE).values() if m.name.count(".") == 1]
    assert len(doors) > 9
    assert [m.room for m in doors if not m.purpose] == []


def test_contributors_find_a_room_that_exists(rooms: ModuleType) -> None:
    text = (DOCS.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .* \| (.*) \|$", text, re.M)[1:]
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    there = {m.room for m in rooms.read_modules(rooms.SOURCE).values()} | {"presets"}
    assert len(rows) > 9
    assert named <= there


def test_a_map_of_a_small_house(rooms: ModuleType, house: Path) -> None:
    text = rooms.draw(rooms.read_modules(house))
    assert "| 2 | `attic` | Old things | hall |" in text
    assert "| 1 | `hall` | Coats | cellar |" in text
    assert "| 0 | `cellar` | Wine and coal | - |" in text
    assert "| 3 | `top` | The roof | attic, cellar |" in text
    arrows = [line.strip() for line in text.splitlines() if "-->" in line]
    assert arrows == ["top --> attic", "attic --> hall", "hall --> cellar"], "no top --> cellar"


def test_figures_of_a_small_house(rooms: ModuleType, house: Path) -> None:
    found = dict(rooms.figures(rooms.read_modules(house)))
    assert found["files"] == 7
    assert found["files with one importer"] == 4, "a, b, hall, attic; two import the cellar"
    assert found["functions with more than 6 parameters"] == 1
    assert found["circles of imports at the top of files"] == "none"
    inside = [["unpaired.attic.a", "unpaired.attic.b"]]
    assert found["circles of imports anywhere below the face"] == inside
    assert found["circles of rooms"] == "none"
    assert found["files of attic"] == 3


def test_rooms_that_import_each_other(rooms: ModuleType, house: Path) -> None:
    (house / "cellar/stairs.py").write_text("def up():\n    import unpaired.hall\n")
    modules = rooms.read_modules(house)
    assert dict(rooms.figures(modules))["circles of rooms"] == [["cellar", "hall"]]
    level = rooms.levels(rooms.room_graph(modules))
    assert level == {"cellar": 0, "hall": 0, "attic": 1, "top": 2}
