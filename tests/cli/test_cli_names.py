"""No name of a case, a class or a file steers a terminal, nor names a file that would."""

import io
import logging
import os
import shutil
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from toy_data import write_settings

from tiny_model import smooth_image, tiny_plan, write_model, write_nifti
from unpaired.cli.app import code_of, run
from unpaired.cli.output import guard_logs, guard_warnings, say, say_table
from unpaired.errors import DataError, UnpairedError
from unpaired.files import read_json
from unpaired.names import file_name, printable
from unpaired.progress import ProgressBar
from unpaired.report.html import environment
from unpaired.run.log import read_log, write_metrics
from unpaired.tables import Table

EVIL = "x\x1b]0;owned\x07\x1b[31m\x9b2J\x7f\u202e\u2066\u2028\nforged"
Output = pytest.CaptureFixture[str]


def safe(text: str) -> bool:
    """Nothing but printable characters in lines, and no line of someone else's."""
    return all(one.isprintable() and not one.startswith("forged") for one in text.split("\n"))


def test_both_escapes_are_whole_and_leave_ordinary_names_alone() -> None:
    assert printable(EVIL).isprintable()
    assert file_name(EVIL).isprintable()
    assert len({file_name(n) for n in ("a\n", "a\r", "a\x7f", "a\u202e", "a\udcff", "a")}) == 6
    assert file_name("a\n\udcff") == "a%0A%FF"
    for name in ("Müller 7", "scan_é\u0301", "腎臓", "\N{FAMILY}\u200d", "a%b", "a\u3000b"):
        assert file_name(name) == name
    assert printable("Müller 7 腎臓 %") == "Müller 7 腎臓 %"


def test_an_indented_list_stays_a_list_and_nothing_else_breaks_a_line() -> None:
    assert str(UnpairedError("two:\n  a: b\n  c")) == "two:\n  a: b\n  c"
    assert str(DataError(f"{EVIL} is damaged")).count("\n") == 0


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal)
    with ProgressBar("work", out) as bar:
        bar(1, 2, EVIL)
        bar(2, 2, EVIL)
    text = out.getvalue()
    assert "owned" in text
    assert "\x1b]0;" not in text and "\x1b[31m" not in text and "\nforged" not in text
    assert terminal or safe(text)


def test_lines_tables_and_errors(capsys: Output) -> None:
    say(f"Written: {EVIL}")
    say_table(Table((EVIL, "b"), [(EVIL, 1)]))
    strange = [DataError(EVIL), RuntimeError(EVIL), OSError(28, "no space", EVIL)]
    assert [code_of(error, debug=False) for error in strange] == [3, 1, 4]
    assert run(["predict", EVIL, "--model", "m", "--out", "o"]) == 3
    assert run([EVIL]) == 2
    said = capsys.readouterr()
    assert said.out.count("owned") == 3
    assert said.err.count("owned") >= 5
    assert safe(said.out) and safe(said.err)


def test_a_traceback(capsys: Output) -> None:
    try:
        raise RuntimeError("x\x1b[31m")
    except RuntimeError as error:
        assert "\x1b" in "".join(traceback.format_exception(error))
        code_of(error, debug=True)
    assert safe(capsys.readouterr().err)


def test_tables_and_pages(tmp_path: Path) -> None:
    table = Table(("case", EVIL), [(EVIL, 0.5)], EVIL)
    assert safe(table.csv().rstrip("\n"))
    for line in table.markdown()[2:]:
        assert line.isprintable()
    page = environment().from_string("<p title='{{ a }}'>{{ a }}</p>{{ n }}")
    assert all(line.isprintable() for line in page.render(a=EVIL, n=3).split("\n"))
    record = {"kind": "validation", "step": 1, "epoch": 1, "score": 0.5}
    write_metrics(tmp_path / "m.csv", [{**record, "mean": {"a": 0.5}, "dice": {"a": {EVIL: 0.5}}}])
    assert safe((tmp_path / "m.csv").read_text().rstrip("\n"))


def rename(folder: Path, case: str, name: str) -> None:
    for kind, ending in (("images", "_0000.nii.gz"), ("labels", ".nii.gz")):
        place = folder / f"{kind}Tr"
        (place / f"{case}{ending}").rename(place / f"{name}{ending}")


def test_what_libraries_warn_of_and_log(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(logging.lastResort, "formatter", None)
    guard_logs()
    guard_warnings()
    text = warnings.formatwarning(UserWarning(EVIL), UserWarning, "a.py", 1, "x = 1")
    assert "owned" in text and safe(text.rstrip("\n"))
    record = logging.LogRecord("nibabel", logging.WARNING, "", 1, "%s", (EVIL,), None)
    assert safe(logging.lastResort.format(record))  # type: ignore[union-attr]


@pytest.mark.unix
@pytest.mark.filterwarnings("error:Glyph")
def test_a_run_on_cases_with_such_names(
    toy: Callable[[str], Path], tmp_path: Path, capsys: Output
) -> None:
    """Preparing, training, scoring and the report: all they print, and all files they write."""
    data, out = toy("aa"), tmp_path / "run"
    for n in range(4):
        rename(data, f"aa_{n:02d}", f"{EVIL}{n}")
    about = data / "dataset.json"
    about.write_text(about.read_text().replace('"box"', '"b\\u001b[31mx\\u202e"'))
    given = ["--data", f"aa={data}", "--config", str(write_settings(tmp_path / "toy.toml"))]
    assert run(["check", f"aa={data}"]) in (0, 3)
    assert run(["train", *given, "--out", str(out), "train.steps=2"]) == 0
    for verb in (["evaluate", str(out)], ["report", str(out)]):
        assert run(verb) == 0
    said = capsys.readouterr()
    assert f"aa/{printable(EVIL)}" in said.err
    assert safe(said.out) and safe(said.err)
    for folder, folders, files in os.walk(out):
        assert all(name.isprintable() for name in (*folders, *files)), folder
    for path in (*out.rglob("*.csv"), *out.rglob("*.md"), *out.rglob("*.html"), out / "log.jsonl"):
        assert all(line.isprintable() for line in path.read_text("utf-8").split("\n")), path
    assert len(read_log(out / "log.jsonl")) > 2
    cases = read_json(out / "evaluation/evaluation.json")["cases"]
    assert {one["case"][:-1] for one in cases} == {EVIL}, "the data keep their names"


@pytest.mark.unix
def test_predictions_of_such_files_are_named_safely_and_scored(
    tmp_path: Path, capsys: Output
) -> None:
    images, out, labels = tmp_path / "in", tmp_path / "out", tmp_path / "labels"
    write_nifti(images / f"{EVIL}.nii.gz", smooth_image((10, 12, 5)), np.diag([2.0, 2, 3, 1]))
    write_model(tmp_path / "model", tiny_plan(modalities=("ct",)))
    call = ["predict", str(images), "--model", str(tmp_path / "model"), "--out", str(out)]
    assert run(call) == 0
    assert (out / f"{file_name(EVIL)}.nii.gz").is_file()
    assert all(path.name.isprintable() for path in out.iterdir())
    assert run(call) == 0
    said = capsys.readouterr()
    assert "1 kept" in said.out, "the same call finds its own file again"
    labels.mkdir()
    shutil.copy(out / f"{file_name(EVIL)}.nii.gz", labels / f"{EVIL}.nii.gz")
    shutil.copy(out / "labels.json", labels)
    assert (
        run(
            [
                "evaluate",
                "--predictions",
                str(out),
                "--labels",
                str(labels),
                "--out",
                str(tmp_path / "scores"),
            ]
        )
        == 0
    )
    said = capsys.readouterr()
    assert safe(said.out) and safe(said.err)
