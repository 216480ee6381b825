"""Small NIfTI files, good and bad, written by nibabel for the tests of the data part."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np


def affine(spacing=(0.9, 1.1, 3.0), degrees=(10.0, -7.0, 25.0), origin=(-80.0, 33.0, 12.5)):
    """An oblique affine [4 4], right-handed."""
    a, b, c = np.radians(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    out = np.eye(4)
    out[:3, :3] = x @ y @ z @ np.diag(spacing)
    out[:3, 3] = origin
    return out


def noise(shape=(9, 8, 7), dtype=np.int16, seed=0):
    """Random voxels of the type."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    low = -1000 if np.dtype(dtype).kind == "i" and np.dtype(dtype).itemsize > 1 else 0
    return rng.integers(low, 100, size=shape).astype(dtype)


def save(path: Path, array, matrix=None, *, codes=(1, 1), kind=nib.Nifti1Image, edit=None) -> Path:
    """Write with nibabel; `edit(header)` may spoil the header before it is written."""
    matrix = affine() if matrix is None else matrix
    image = kind(array, matrix, dtype=array.dtype)
    image.set_qform(matrix, codes[0])
    image.set_sform(matrix, codes[1])
    image.header.set_xyzt_units("mm")
    if edit is not None:
        edit(image.header)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def patch(path: Path, field: str, value) -> Path:
    """Overwrite one header field of a plain .nii, as damage or a poor writer would."""
    data = bytearray(path.read_bytes())
    header = np.frombuffer(data, nib.Nifti1Header.template_dtype, 1)
    header[field][0] = value
    path.write_bytes(data)
    return path


def dataset(root: Path, cases, *, labels=None, channels=("CT",), ending=".nii.gz") -> Path:
    """An nnU-Net folder: `cases` is id -> (images [K], label or None, affine)."""
    for case, (images, label, matrix) in cases.items():
        for number, image in enumerate(images):
            save(root / "imagesTr" / f"{case}_{number:04d}{ending}", image, matrix)
        if label is not None:
            save(root / "labelsTr" / f"{case}{ending}", label, matrix)
    about = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": labels or {"background": 0, "liver": 1, "spleen": 2},
        "file_ending": ending,
    }
    (root / "dataset.json").write_text(json.dumps(about))
    return root
