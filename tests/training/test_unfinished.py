"""A model at any time: what a stopped training leaves can be used, and says how far it is."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from toy import toy_config, write_toy
from unpaired.artifact.unfinished import unfinished, warn
from unpaired.cli.app import run as program
from unpaired.errors import DataError
from unpaired.evaluation.evaluate import evaluate
from unpaired.inference.predictor import Predictor
from unpaired.run import RunFolder
from unpaired.training.fit import train

SETTINGS = ("train.steps=6", "train.steps_per_epoch=2", "train.log_every=1")


class EnoughError(Exception):
    pass


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    return {m: write_toy(tmp_path, m, 6, m == "a", (1, 2)) for m in ("a", "b")}


def stop_at(step: int):
    def stop(record: dict) -> None:
        if record["kind"] == "step" and record["step"] == step:
            raise EnoughError

    return stop


@pytest.mark.slow
def test_a_stopped_training_has_the_model_of_its_last_validation(
    data: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warn.cache_clear()
    run, config = tmp_path / "run", toy_config(*SETTINGS)
    with pytest.raises(EnoughError):
        train(config, data, run, on_step=stop_at(5))
    model = RunFolder(run).files.model
    assert unfinished(model).endswith("is unfinished: step 4 of 6; its training goes on.")
    case = next((data["a"] / "imagesTr").iterdir())
    with caplog.at_level(logging.WARNING):
        early = Predictor.from_folder(run).predict(case, "a").labels
        evaluate(run)
    assert [r.getMessage() for r in caplog.records].count(unfinished(model)) == 1
    # Written along the way or not, the training is the same; and then the model says nothing.
    train(config, data, run)
    train(config, data, tmp_path / "unbroken")
    assert unfinished(model) == ""
    a, b = (load_file(r / "model" / "model.safetensors") for r in (run, tmp_path / "unbroken"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert early.shape == Predictor.from_folder(run).predict(case, "a").labels.shape


def test_one_that_ran_out_of_time_says_so(data: dict[str, Path], tmp_path: Path) -> None:
    train(toy_config(*SETTINGS, "train.max_minutes=1e-9"), data, tmp_path / "run")
    assert "step 1 of 6" in unfinished(RunFolder(tmp_path / "run").files.model)


def test_before_the_first_validation_there_is_none_and_it_is_said(
    data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EnoughError):
        train(toy_config(*SETTINGS), data, tmp_path / "run", on_step=stop_at(1))
    with pytest.raises(DataError, match="no model yet: the first is written at the first valid"):
        Predictor.from_folder(tmp_path / "run")
    case = str(next((data["a"] / "imagesTr").iterdir()))
    words = ["predict", case, "--model", str(tmp_path / "run"), "--out", str(tmp_path / "l.nii.gz")]
    assert program(words) == 3
    assert "the same command resumes" in capsys.readouterr().err
