"""Stored records give the same page again, byte for byte; no number of it was typed."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_results import made_record, made_results, with_settings

from sealed import unsealed
from unpaired.config import Config
from unpaired.datasets.split_file import Split
from unpaired.errors import DataError, UsageError
from unpaired.experiments.jobs import Job, Runs, record_name
from unpaired.experiments.record import read_record, write_record
from unpaired.experiments.results import Results
from unpaired.experiments.store import load, store, write_page
from unpaired.experiments.tables import markdown

DOCS = Path(__file__).resolve().parents[2] / "docs"


def runs_of(results: Results, folder: Path) -> Runs:
    """Run folders with the records of made-up results, read back as a call would."""
    runs = Runs(results.experiment, results.modalities, range(results.rows[0].wanted))
    for result in results.rows:
        for seed, records in result.records.items():
            for record in records:
                name = re.sub(r"\W+", "_", record.identity)
                job = Job(folder / name, name, Config(), {}, Split({}, {}, {}), seed)
                job.rows.append((result.row.name, seed))
                write_record(job.record(record_name(result.row)), record)
                runs.jobs[name] = job
    return runs


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = made_record("row", 1, "ct", "mr")
    path = tmp_path / "record.json"
    write_record(path, record)
    found = read_record(path)
    for name in ("identity", "modalities", "settings", "split", "floor", "parameters", "curve"):
        assert getattr(found, name) == getattr(record, name)
    for grid, scores in record.scores.items():
        for ours, theirs in zip(found.scores[grid], scores, strict=True):
            assert (ours.case, ours.cls, ours.truth_voxels) == (
                theirs.case, theirs.cls, theirs.truth_voxels,
            )  # fmt: skip
            assert ours.dice == pytest.approx(theirs.dice, abs=5e-6, nan_ok=True)
            assert ours.asd_mm == pytest.approx(theirs.asd_mm, abs=5e-5, nan_ok=True)
            voxels = theirs.extra["asd_voxels"]
            assert ours.extra.get("asd_voxels", float("nan")) == pytest.approx(
                voxels, abs=5e-5, nan_ok=True
            )
    write_record(tmp_path / "again.json", found)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    path.write_text(unsealed(path.read_text()).replace('"version": 1', '"version": 99'))
    with pytest.raises(DataError, match="no record of this version"):
        read_record(path)


@pytest.mark.parametrize("name", ["table5", "scaling"])
def test_stored_results_are_the_results(name: str, tmp_path: Path) -> None:
    results = made_results(name, seeds=2, left_out=1, paper=name == "table5")
    results = replace(results, notes=("A row was not run: why.",))
    index = store(results, runs_of(results, tmp_path / "runs"), tmp_path / "docs" / "phantom")
    found = load(index)
    assert markdown(found) == markdown(results)
    assert "not run" in markdown(found)


@pytest.mark.slow
def test_the_page_is_written_again_byte_for_byte(tmp_path: Path) -> None:
    page, folder = tmp_path / "results.md", tmp_path / "results"
    page.write_text("# Results\n\nProse.\n\n<!-- reproduce phantom/table7: begin -->\nold\n"
                    "<!-- reproduce phantom/table7: end -->\n\nMore prose.\n")  # fmt: skip
    for name in ("table7", "fig5"):
        results = made_results(name)
        store(results, runs_of(results, tmp_path / name), folder / "phantom")
    written = write_page(folder, page)
    first = page.read_bytes()
    text = first.decode()
    pictures = {f"{name}{kind}.png" for name in ("table7", "fig5") for kind in ("", "_curves")}
    assert {path.name for path in written} == {"results.md", *pictures}
    assert text.index("Prose.") < text.index("### Table 7") < text.index("More prose.")
    assert text.index("More prose.") < text.index("### Fig. 5") and "old" not in text
    assert "](results/phantom/table7.png)" in text
    short = text.split("<!-- reproduce summary: begin -->")[1].split("<!--")[0]
    lines = [line for line in short.splitlines() if line.startswith("| phantom")]
    assert [line.split(" | ")[1:4] for line in lines] == [
        ["table7", row, "Joint V3"] for row in ("Ours, as printed", "Ours") for _ in "ab"
    ]
    for line in lines:  # the same numbers as in the table they come from
        _, *cells = line.split(" | ")
        assert " | ".join(cells[1:6]) in text.split("### Table 7")[1].split("<!--")[0]
    assert "- not run on phantom: table2, table6, draws" in short
    assert "with the paper's network, Swin-Unet 2D: table1, table4, table5.\n" in short
    page.write_text(text.replace("Joint V3 + L_mcr |", "Joint V3 + L_mcr | 99.9 |"))
    write_page(folder, page)
    assert page.read_bytes() == first
    record = next((folder / "phantom" / "records").glob("*.json"))
    record.write_text(unsealed(record.read_text()).replace("0.9", "0.8"))
    write_page(folder, page)
    assert page.read_bytes() != first


def test_the_page_may_lie_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = made_results("table7")
    store(results, runs_of(results, tmp_path / "runs"), tmp_path / "kept" / "phantom")
    (tmp_path / "pages").mkdir()
    monkeypatch.chdir(tmp_path)
    for folder, page in ((tmp_path / "kept", Path("pages/a.md")), (Path("kept"), Path("b.md"))):
        write_page(folder, page)
    assert "](../kept/phantom/table7.png)" in Path("pages/a.md").read_text()
    assert "](kept/phantom/table7.png)" in Path("b.md").read_text()


def test_nothing_stored_and_a_damaged_index_are_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no stored results"):
        write_page(tmp_path, tmp_path / "page.md")
    (tmp_path / "phantom").mkdir()
    index = tmp_path / "phantom" / "table5.json"
    index.write_text('{"experiment": "table99"}')
    with pytest.raises(DataError, match="no index of results"):
        write_page(tmp_path, tmp_path / "page.md")
    index.write_text('{"experiment": "table5", "rows": {"Ours (w/ CR)": {}}}')
    with pytest.raises(DataError, match=r"no row Ours \(w/ CR\); the rows are Backbone;"):
        write_page(tmp_path, tmp_path / "page.md")


def test_another_network_than_the_tables_is_said_wherever_the_rows_stand(tmp_path: Path) -> None:
    """Rows of Table 7 in 2D are no Table 7: by its heading, on the page and in the summary."""
    two = {"model.backbone": "swin_unet", "data.dims": 2}
    results = made_results("table7", seeds=1, paper=True)
    results = replace(results, rows=tuple(with_settings(row, two) for row in results.rows))
    for name, made in {"flat": results, "whole": made_results("table7", seeds=1)}.items():
        store(made, runs_of(made, tmp_path / name), tmp_path / "stored" / name)
    write_page(tmp_path / "stored", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    flat, whole = (text.split(f"reproduce {n}/table7: begin")[1] for n in ("flat", "whole"))
    flat = flat.split("<!--")[0]
    heading = next(line for line in flat.splitlines() if line.startswith("#"))
    assert heading == (
        "### Rows of Table 7 with another network, Swin-Unet 2D (the paper's: nnFormer 3D): the "
        "parts of the consistency, abdominal organs"
    )
    assert "Not the paper's network: its rows are nnFormer 3D, these are Swin-Unet 2D." in flat
    assert "93.8" not in flat and "| gap |" not in flat and "| Joint V3 | Swin-Unet 2D |" in flat
    assert "### Table 7: the parts" in whole and "| Joint V3 | nnFormer 3D |" in whole
    short = text.split("reproduce summary: begin")[1].split("<!--")[0]
    assert "| flat | table7, Swin-Unet 2D | Ours | Joint V3 | ct |" in short
    assert "| whole | table7 | Ours | Joint V3 | ct |" in short
    assert "- on flat with another network than the paper's (nnFormer 3D): table7, Swin" in short
    assert "- not run on whole: table2, table6, fig5, draws" in short
    assert "- not run on any data" not in short


def test_no_number_of_the_page_was_typed() -> None:
    """Beside the generated parts: words, and what says which data they are."""
    text = re.sub(
        r"<!-- reproduce (\S+): begin -->.*?<!-- reproduce \1: end -->",
        "",
        (DOCS / "results.md").read_text(),
        flags=re.DOTALL,
    )
    text = re.sub("<!-- oblique: begin -->.*?<!-- oblique: end -->", "", text, flags=re.DOTALL)
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)
    typed = re.findall(r"[-+]?\d+\.\d+\b|\b\d+ ?(?:%|points?\b)|±", prose)
    assert not typed


@pytest.mark.slow
def test_the_projects_own_page_comes_from_its_records(tmp_path: Path) -> None:
    """No number in the generated parts of docs/results.md was typed."""
    folder, page = DOCS / "results", DOCS / "results.md"
    marks = re.findall(r"<!-- reproduce (\S+): begin -->", page.read_text())
    stored = sorted(f"{p.parent.name}/{p.stem}" for p in folder.glob("*/*.json"))
    assert sorted(marks) == sorted([*stored, *["summary"] * bool(stored)])
    if not stored:
        return
    copy = tmp_path / "results.md"
    copy.write_bytes(page.read_bytes())
    mirror = tmp_path / "results"
    for path in folder.rglob("*.json"):
        target = mirror / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    write_page(mirror, copy)
    assert copy.read_bytes() == page.read_bytes()
