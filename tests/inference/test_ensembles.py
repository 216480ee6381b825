"""Models that predict together: folds, and networks of other grids."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sealed import unsealed
from tiny_model import pointwise_model, smooth_image, tiny_plan, write_model
from unpaired.errors import DataError, UsageError
from unpaired.inference.predictor import Predictor
from unpaired.io.volume import Volume
from unpaired.run.folds import write_folds

AFFINE = np.array([[-1.7, 0, 0, 40], [0, -2.2, 0, 30], [0, 0, 3.1, -20], [0, 0, 0, 1.0]])


def test_folds_are_averaged_and_found_by_folder(tmp_path: Path) -> None:
    volume = Volume(smooth_image((16, 18, 6)), AFFINE)
    parts = []
    for seed in range(2):
        write_model(tmp_path / "run" / f"fold_{seed}" / "model", seed=seed)
        one = Predictor.from_folder(tmp_path / "run" / f"fold_{seed}", device="cpu")
        parts.append(one.predict(volume, "ct", probabilities=True).probabilities)
    found = Predictor.from_folder(tmp_path / "run", device="cpu")
    mean = found.predict(volume, "ct", probabilities=True).probabilities
    np.testing.assert_allclose(mean, sum(parts) / 2, atol=1e-6)
    assert np.abs(parts[0] - parts[1]).max() > 0.01


def test_each_network_sees_its_own_intensity_scale() -> None:
    """Folds learn their window from their own cases; on the same grid they still go together."""
    plan = tiny_plan()
    part = plan.modalities["ct"]
    narrow = part.model_copy(update={"clip": (part.clip[0].model_copy(update={"high": 50.0}),)})
    other = plan.model_copy(update={"modalities": {**plan.modalities, "ct": narrow}})
    volume = Volume(smooth_image((16, 18, 6)), AFFINE)
    members = [pointwise_model(plan, 0), pointwise_model(other, 1)]
    alone = [
        Predictor([m], torch.device("cpu")).predict(volume, "ct", probabilities=True).probabilities
        for m in members
    ]
    mean = Predictor(members, torch.device("cpu")).predict(volume, "ct", probabilities=True)
    np.testing.assert_allclose(mean.probabilities, (alone[0] + alone[1]) / 2, atol=1e-6)  # type: ignore[operator]


def test_networks_of_other_grids_are_averaged_on_the_images_own() -> None:
    """Such as one of slices and one of volumes: against the mean of what each gives alone."""
    fine, coarse = tiny_plan(), tiny_plan(spacing_mm=(4.5, 3.0, 2.5))
    volume = Volume(smooth_image((16, 18, 7)), AFFINE)
    members = [pointwise_model(fine, 0), pointwise_model(coarse, 1), pointwise_model(fine, 2)]
    alone = [
        Predictor([m], torch.device("cpu")).predict(volume, "ct", probabilities=True).probabilities
        for m in members
    ]
    together = Predictor(members, torch.device("cpu"))
    found = together.predict(volume, "ct", probabilities=True)
    mean = sum(alone) / 3  # type: ignore[arg-type]
    np.testing.assert_allclose(found.probabilities, mean, atol=1e-6)  # type: ignore[arg-type]
    sure = np.diff(np.sort(mean, 0), axis=0)[-1] > 1e-5  # type: ignore[call-overload]
    assert (together.predict(volume, "ct").labels[sure] == np.argmax(mean, 0)[sure]).all()
    assert np.abs(alone[0] - alone[1]).max() > 0.01  # type: ignore[operator]


def test_each_network_keeps_its_own_settings() -> None:
    """Batches and overlap are those of its configuration, whatever the first one's are."""
    plan, volume = tiny_plan(), Volume(smooth_image((70, 18, 7)), AFFINE)
    one, other = pointwise_model(plan, 0), pointwise_model(plan, 1)
    config = other.config.replace(predict={"batch_size": 3, "overlap": 0.25})
    members = [one, replace(other, config=config)]
    parts = [
        Predictor([m], torch.device("cpu")).predict(volume, "ct", probabilities=True).probabilities
        for m in members
    ]
    mean = Predictor(members, torch.device("cpu")).predict(volume, "ct", probabilities=True)
    np.testing.assert_allclose(mean.probabilities, (parts[0] + parts[1]) / 2, atol=1e-6)  # type: ignore[operator]


def test_models_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "a")
    write_model(tmp_path / "b", plan=tiny_plan().model_copy(update={"slice_axis": "P"}))
    write_model(tmp_path / "c", plan=tiny_plan(("background", "liver", "kidney")))
    write_model(tmp_path / "d", plan=tiny_plan(modalities=("ct", "cbct")))
    for name, words in {"b": "slice_axis", "c": "classes", "d": "modalities"}.items():
        with pytest.raises(DataError, match=words):
            Predictor.from_folder([tmp_path / "a", tmp_path / name], device="cpu")
    with pytest.raises(DataError, match="does not exist"):
        Predictor.from_folder(tmp_path / "nowhere")
    (tmp_path / "run" / "fold_0").mkdir(parents=True)
    with pytest.raises(DataError, match="none of its 1 folds holds a model yet"):
        Predictor.from_folder(tmp_path / "run")


def test_folds_without_a_model_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tmp_path / "run"
    write_folds(run, 12)
    for n in (0, 2, 10):
        write_model(run / f"fold_{n}" / "model", seed=n)
    assert len(Predictor.from_folder(run, device="cpu").models) == 3
    assert "fold_1, fold_3, " in caplog.text
    assert "fold_11 hold no model yet, so 3 of 12 folds count" in caplog.text
    with pytest.raises(UsageError, match="a cross-validation of 12 folds"):
        write_folds(run, 5)
    text = unsealed((run / "folds.json").read_text())
    (run / "folds.json").write_text(text.replace("12", '"x"'))
    with pytest.raises(DataError, match="not what `unpaired train --folds` writes"):
        Predictor.from_folder(run)
