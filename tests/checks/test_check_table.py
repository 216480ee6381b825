"""The table of docs/check.md says what the program says."""

from pathlib import Path

import pytest

from bad_inputs import INPUTS
from said import rows, sentence

PAGE = Path(__file__).resolve().parents[2] / "docs" / "check.md"


@pytest.mark.parametrize("one", INPUTS, ids=[one.id for one in INPUTS])
def test_row(one):
    table = rows(PAGE.read_text(encoding="utf-8"))
    assert table[f"{one.number} {one.name}"] == sentence(one), "run benchmarks/check_table.py"


def test_all_43_are_there_and_nothing_else():
    numbers = {one.number for one in INPUTS}
    assert numbers == {str(n) for n in range(1, 44)} | {"+"}
    table = rows(PAGE.read_text(encoding="utf-8"))
    assert list(table) == [f"{one.number} {one.name}" for one in INPUTS]
