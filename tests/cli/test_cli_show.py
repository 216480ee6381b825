"""Progress and printing, with and without a terminal."""

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from unpaired import progress as module
from unpaired.cli.output import memory, say_json, say_table
from unpaired.progress import ProgressBar as Progress
from unpaired.progress import duration
from unpaired.tables import Table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89.0, "89 s"), (90.0, "2 min"), (3600.0, "60 min"), (7320.0, "2 h 2 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_memory() -> None:
    assert [memory(300 * 2**20), memory(3 * 2**29)] == ["300 MiB", "1.5 GiB"]


def test_plain_lines_are_few_and_say_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    out = io.StringIO()
    with Progress("train", out) as bar:
        for step in range(1, 101):
            now[0] += 1.0
            bar(step, 100, f"loss {step}")
    lines = out.getvalue().splitlines()
    assert lines[0] == "train 1/100 loss 1"
    assert lines[1] == "train 11/100 loss 11, 89 s left"
    assert lines[-1] == "train 100/100 loss 100"
    assert len(lines) == 11


def test_another_total_begins_anew() -> None:
    out = io.StringIO()
    with Progress("work", out) as bar:
        for done, total in ((1, 2), (2, 2), (1, 3), (2, 3), (1, 3)):
            bar(done, total)
    assert out.getvalue().splitlines() == ["work 1/2", "work 2/2", "work 1/3", "work 1/3"]


def test_a_terminal_gets_a_bar() -> None:
    out = Terminal()
    with Progress("train", out) as bar:
        bar(1, 4, "loss [bold]")
        bar(4, 4, "loss 2")
        bar(1, 7)
    text = out.getvalue()
    assert "4/4" in text
    assert "1/7" in text
    assert "train" in text


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass
    class Point:
        x: float
        where: Path

    say_json({"a": [Point(math.nan, Path("p"))], 1: (math.inf, 2.5, None, True)})
    assert json.loads(capsys.readouterr().out) == {
        "a": [{"x": None, "where": "p"}],
        "1": [None, 2.5, None, True],
    }


def test_tables_hold_what_came_and_no_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say_table(Table(["case", "what"], [["a[b]\n\x1b[31m", "w" * 300]]))
    text = capsys.readouterr().out
    assert "a[b]\\n\\x1b[31m" in text
    assert "w" * 300 in text
    assert len(text.splitlines()) == 2
