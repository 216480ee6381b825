"""Tiny data sets with known contents, and prepared cases made by hand."""

from pathlib import Path

import nibabel as nib
import numpy as np

from nifti_files import dataset
from unpaired.data.cache import PreparedCase
from unpaired.data.content import class_slices
from unpaired.data.plan import Clip, ModalityPlan, Plan

LABELS = {"background": 0, "liver": 3, "left kidney": 7}


def straight(spacing, axes="LPS"):
    """An affine without rotation: array axis i runs towards the letter axes[i]."""
    turn = nib.orientations.axcodes2ornt(axes)
    out = np.eye(4)
    out[:3, :3] = 0
    for axis, (world, sign) in enumerate(turn):
        out[int(world), axis] = sign * spacing[axis]
    return out


def body(shape, seed=0):
    """A noisy block in air with two labelled boxes: image int16 [shape], label uint8."""
    rng = np.random.default_rng(seed)
    image = np.full(shape, -1000, np.int16)
    label = np.zeros(shape, np.uint8)
    inner = tuple(slice(1, n - 1) for n in shape)
    image[inner] = rng.integers(-80, 40, [n - 2 for n in shape])
    first = tuple(slice(n // 4, n // 2) for n in shape)
    second = tuple(slice(n // 2, 3 * n // 4) for n in shape)
    image[first] += 120
    image[second] += 300
    label[first], label[second] = 3, 7
    return image, label


def write_set(root: Path, shapes, spacing=(1.0, 1.0, 3.0), axes="LPS", channels=("CT",)) -> Path:
    """An nnU-Net folder of `body` cases a0, a1, ..., one a shape."""
    cases = {}
    for number, shape in enumerate(shapes):
        image, label = body(shape, number)
        images = [image + 10 * k for k in range(len(channels))]
        cases[f"a{number}"] = (images, label, straight(spacing, axes))
    return dataset(root, cases, labels=LABELS, channels=channels)


def plan(spacing=(3.0, 1.0, 1.0), patch=(16, 16), channels=("CT",), modalities=("ct",), **more):
    """A plan that clips to -200 .. 300."""
    recipe = ModalityPlan(
        channel_names=channels,
        clip=tuple(Clip(kind="window", low=-200, high=300) for _ in channels),
    )
    return Plan(
        classes=("background", "liver", "left kidney"),
        modalities=dict.fromkeys(modalities, recipe),
        spacing_mm=spacing,
        slice_axis=more.pop("slice_axis", "S"),
        patch=patch,
        **more,
    )


def prepared_case(folder: Path, name, image, label, modality="ct") -> PreparedCase:
    """A prepared case from int16 [K d h w] and uint8 [d h w], as they would lie in the cache."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", image)
    np.save(folder / f"{name}.label.npy", label)
    return PreparedCase(
        id=name,
        modality=modality,
        patient=name,
        folder=folder,
        shape=label.shape,
        spacing_mm=(3.0, 1.0, 1.0),
        scale=(0.5,) * len(image),
        shift=(100.0,) * len(image),
        box=tuple((0, n) for n in label.shape),
        labelled=True,
        slices={c: np.array(z) for c, z in class_slices(label).items()},
        record={},
    )
