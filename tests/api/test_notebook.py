"""docs/first_model.ipynb runs from start to finish."""

import re
from pathlib import Path

import pytest

SHORTER = '"steps": 60, "steps_per_epoch": 20'
NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "first_model.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="notebooks are run where nbclient is")
    nbclient = pytest.importorskip("nbclient", reason="notebooks are run where nbclient is")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, 4)
    for cell in notebook.cells:  # half as long
        cell.source = cell.source.replace('"steps": 120, "steps_per_epoch": 40', SHORTER)
    assert not any(cell.get("outputs") for cell in notebook.cells), "stored without outputs"
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    scores = [float(x) for x in re.findall(r"validation Dice (\d\.\d+)", printed)]
    assert len(scores) == 3
    assert scores[-1] > scores[0], "it learns"
    assert "| liver |" in "".join(o["data"]["text/plain"] for o in outputs if "data" in o)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert (tmp_path / "first_model" / "labels.nii.gz").is_file()
    assert re.search(r"liver: \d+ ml", printed)
