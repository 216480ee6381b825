"""Networks of volumes on the whole road: train, resume, fold, predict, on the toy's grid."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from toy import toy_config, train_toy
from unpaired.config import Config, load_config
from unpaired.evaluation.evaluate import evaluate, folded_differences
from unpaired.files import read_json
from unpaired.inference.predictor import Predictor
from unpaired.metrics import dice
from unpaired.training.checkpoint import load_checkpoint
from unpaired.training.fit import train

pytestmark = pytest.mark.slow

NETWORKS = {
    "resenc_unet": [
        "model.options.base_width=8", "model.options.blocks=[1, 1, 1]",
        "model.options.strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]]", "model.heads=4",
    ],
    "nnformer": [
        "model.options.embed_dim=16", "model.options.depths=[2, 2, 2]",
        "model.options.heads=[1, 2, 4]", "model.options.patch=[1, 4, 4]", "model.options.window=4",
    ],
    "swin_unet": [
        "model.options.embed_dim=8", "model.options.depths=[2, 2, 2]",
        "model.options.heads=[1, 2, 2]", "model.options.patch=[1, 4, 4]",
    ],
}  # fmt: skip


def config_of(network: str, *more: str) -> Config:
    """The toy's configuration in volumes, with the options of another backbone."""
    kept = toy_config()
    base = [
        "data.dims=3", "data.patch=[8, 32, 32]", "data.workers=0", "data.split=[0.5, 0.25, 0.25]",
        f"model.backbone={network}", "model.heads=2", "predict.batch_size=2",
    ]  # fmt: skip
    train_ = [f"train.{k}={v}" for k, v in kept.train.model_dump(exclude_none=True).items()]
    return load_config(None, None, [*base, *train_, *NETWORKS[network], *more])


@pytest.mark.parametrize("network", list(NETWORKS))
def test_the_whole_road(network: str, data: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(network, "train.steps=4", "train.batch_size=1")
    run = tmp_path / "run"
    result = train_toy(config, data, run)
    assert result.step == 4
    assert read_json(run / "plan.json")["patch"] == [8, 32, 32]
    assert read_json(run / "plan.json")["context"] == 1
    assert folded_differences(run) == {"a": 0, "b": 0}
    evaluate(run)
    scored = read_json(run / "evaluation" / "evaluation.json")["cases"]
    assert {row["modality"] for row in scored} == {"a", "b"}
    source = next((data["a"] / "imagesTr").glob("*.nii.gz"))
    predictor = Predictor.from_folder(run)
    predictor.predict_file(source, tmp_path / "labels.nii.gz", "a")
    image, labels = nib.load(source), nib.load(tmp_path / "labels.nii.gz")
    assert labels.shape == image.shape and np.array_equal(labels.affine, image.affine)


def test_an_interrupted_training_of_volumes_ends_as_an_unbroken_one(
    data: dict[str, Path], tmp_path: Path
) -> None:
    more = ["train.batch_size=1", "train.steps=4"]
    config = config_of("resenc_unet", *more)
    train_toy(config, data, tmp_path / "whole")
    broken = tmp_path / "broken"
    short = config_of("resenc_unet", *more, "train.max_minutes=0.0001")
    while train_toy(short, data, broken).step < 4:
        pass
    a, b = (
        load_checkpoint(run / "checkpoints" / "last.pt") for run in (tmp_path / "whole", broken)
    )
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])


def test_a_network_of_volumes_learns_the_toy_in_both_modalities(
    data: dict[str, Path], tmp_path: Path
) -> None:
    config = config_of(
        "resenc_unet", "train.steps=60", "train.steps_per_epoch=60",
        "train.learning_rate=0.01", "augment.probability=0.1",
    )  # fmt: skip
    run = tmp_path / "run"
    train_toy(config, data, run)
    predictor = Predictor.from_folder(run)
    for m, root in data.items():
        held_out = sorted((root / "imagesTr").glob("*.nii.gz"))[0]
        found = predictor.predict(held_out, m).labels
        truth = np.asarray(nib.load(root / "labelsTr" / held_out.name.replace("_0000", "")).dataobj)
        box = {"a": 2, "b": 3}[m]
        assert dice(found == 2, truth == box) > 0.7


def test_a_real_pair_goes_the_whole_road_in_volumes(shared, tmp_path: Path) -> None:
    """One CT and one MR of the trunk, RAS and LPS, four organs: in and out on their own grids."""
    root = shared("data/torso")
    data = {m: root / m for m in ("ct", "mr")}
    config = config_of(
        "resenc_unet", "train.steps=2", "train.batch_size=1", "data.patch=[16, 64, 64]",
        "model.options.strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]]", "data.spacing_mm=[6, 6, 6]",
    )  # fmt: skip
    run = tmp_path / "run"
    train(config, data, run)
    assert folded_differences(run) == {"ct": 0, "mr": 0}
    predictor = Predictor.from_folder(run)
    for m in data:
        source = next((data[m] / "imagesTr").glob("*.nii.gz"))
        predictor.predict_file(source, tmp_path / f"{m}.nii.gz", m)
        image, labels = nib.load(source), nib.load(tmp_path / f"{m}.nii.gz")
        assert labels.shape == image.shape
        for name in ("get_qform", "get_sform"):
            (a, code_a), (b, code_b) = (getattr(x, name)(coded=True) for x in (image, labels))
            assert code_a == code_b and (a is None or np.array_equal(a, b))
