"""A tiny data set of two modalities: a bright or dark ball and a box, in the nnU-Net layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from unpaired.config import Config, load_config
from unpaired.training import fit
from unpaired.training.fit import TrainResult

SHAPE = (40, 36, 10)  # file order i j k; axial slices along k


def write_toy(root: Path, modality: str, cases: int, bright: bool, values: tuple[int, int]) -> Path:
    """Write `cases` scans of one modality; returns its folder."""
    folder = root / modality
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    for n in range(cases):
        rng = np.random.default_rng([n, len(modality), int(bright)])
        i, j, k = np.indices(SHAPE)
        centre = np.array([13, 17, 5]) + rng.uniform(-2, 2, 3)
        ball = ((i - centre[0]) ** 2 + (j - centre[1]) ** 2) / 36 + (k - centre[2]) ** 2 / 9 < 1
        box = (abs(i - 29) < 4) & (abs(j - 18) < 5) & (abs(k - 5) < 4)
        image = 100.0 * ball * (1 if bright else -1) + 50.0 * box + rng.normal(0, 8, SHAPE)
        label = values[0] * ball + values[1] * (box & ~ball)
        affine = np.diag([1.0, 1.0, 3.0, 1.0])
        name = f"{modality}_{n:02d}"
        nib.save(
            nib.Nifti1Image(image.astype(np.int16), affine),
            folder / "imagesTr" / f"{name}_0000.nii.gz",
        )
        nib.save(
            nib.Nifti1Image(label.astype(np.uint8), affine), folder / "labelsTr" / f"{name}.nii.gz"
        )
    meta = {
        "channel_names": {"0": modality.upper()},
        "labels": {"background": 0, "ball": values[0], "box": values[1]},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(meta))
    return folder


def toy_config(*overrides: str) -> Config:
    """A network of a few thousand parameters that learns the toy in some dozen steps."""
    base = [
        "data.patch=[32, 32]",
        "data.workers=0",
        "data.split=[0.5, 0.25, 0.25]",
        "model.heads=2",
        "model.options.embed_dim=8",
        "model.options.depths=[1, 1, 2]",
        "model.options.heads=[1, 2, 2]",
        "model.options.drop_path=0.1",
        "train.steps=6",
        "train.batch_size=2",
        "train.steps_per_epoch=2",
        "train.warmup_steps=2",
        "train.learning_rate=0.003",
        "train.log_every=1",
        "train.precision=fp32",
        "train.device=cpu",
    ]
    return load_config(None, None, [*base, *overrides])


def train_toy(
    config: Config, data: Mapping[str, Path], out: Path | str, **more: Any
) -> TrainResult:
    """`train` with cases that are prepared once for all runs on these data, beside them."""
    return fit.train(config, data, out, next(iter(data.values())).parent / "prepared", **more)
