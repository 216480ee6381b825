"""The blocks of docs/python.md run one after the other, as they stand but for their size."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unpaired as up
from toy import toy_config, write_toy
from unpaired.api import run as api
from unpaired.io.nifti import write_volume
from unpaired.io.volume import Volume

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"
SMALL = {"model", "data", "train"}
"""Tables that the test takes from the toy's settings, so that 5000 steps of them are seconds."""


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trainings of a thousandth of the steps, by a network of a few thousand parameters."""
    asked: list[int] = []
    real = api.train_run

    def small(config: up.Config, *arguments: Any, **named: Any) -> Any:
        asked.append(config.train.steps)
        few = toy_config(f"train.steps={config.train.steps // 1000}")
        tables = {name: getattr(few, name).model_dump() for name in SMALL}
        return real(config.replace(**tables), *arguments, **named)

    monkeypatch.setattr(api, "train_run", small)
    return asked


@pytest.mark.slow
def test_every_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_steps: list[int]
) -> None:
    monkeypatch.chdir(tmp_path)
    for m, bright in (("ct", True), ("mr", False)):
        folder = write_toy(Path("scans"), m, 8, bright, (1, 2))
        about = folder / "dataset.json"
        about.write_text(about.read_text().replace("ball", "liver"))
    new = up.read(Path("scans/mr/imagesTr/mr_00_0000.nii.gz"))
    write_volume(Path("new.nii.gz"), new.array, Volume(new.array, new.affine))
    names: dict[str, Any] = {"__name__": "example"}
    found = []
    for number, code in enumerate(blocks()):
        exec(compile(code, f"python.md, block {number + 1}", "exec"), names)
        found.append(dict(names))
    assert few_steps == [5000, 6000, 5000, 5000]
    assert Path("scores.csv").read_text().startswith("modality,case,class,dice")
    assert found[0]["config"].loss.gamma == 0.2
    steps = [record["step"] for record in found[1]["run"].log if record["kind"] == "step"]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert isinstance(found[2]["plain"], torch.nn.Module)
    assert np.array_equal(up.read("labels.nii.gz").array, found[2]["seg"].labels)
    terms = [record for record in up.Run("runs/mine").log if record["kind"] == "step"]
    assert all(record["weighted"]["boundary"] > 0 for record in terms)
    assert up.load("runs/mine").classes == ("background", "liver", "box")
    assert len(list(Path("runs/memory/data/mr/imagesTr").iterdir())) == 6
