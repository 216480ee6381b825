"""Reading .nii.gz: ours (one-shot inflate, CRC and length checked) against nibabel.

Goal: 1.5x on a CT of 512 x 512 x 150 int16, 5x on an MR of 256 x 256 x 36, bit-identical.
"""

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from _report import interleave, record
from unpaired.data.volume import read_volume


def scan(shape: tuple[int, int, int], background: int, seed: int = 0) -> np.ndarray:
    """A synthetic scan int16: smooth tissue with noise in an ellipse, constant air around."""
    rng = np.random.default_rng(seed)
    coarse = ndimage.gaussian_filter(rng.normal(size=[max(4, n // 8) for n in shape]), 1.5)
    tissue = ndimage.zoom(coarse, np.array(shape) / coarse.shape, order=1)
    tissue = tissue / tissue.std() * 60 + rng.normal(0, 12, shape) + (1000 + background)
    x, y, _ = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j, 0:1]
    body = (x / 0.8) ** 2 + (y / 0.6) ** 2 < 1
    return np.where(body, tissue, background).astype(np.int16)


SCANS = {
    "CT 512x512x150": (lambda: scan((512, 512, 150), -1000), 5),
    "MR 256x256x36": (lambda: scan((256, 256, 36), 0), 15),
}


def run() -> dict[str, float]:
    """Measure, assert, record; the ratio per scan."""
    rows, ratios = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (make, rounds) in SCANS.items():
            path = Path(folder) / f"{name}.nii.gz"
            nib.save(nib.Nifti1Image(make(), np.diag([0.8, 0.8, 2.0, 1.0])), path)
            reference = nib.load(path)
            ours = read_volume(path)
            assert np.array_equal(ours.array, np.asanyarray(reference.dataobj))
            assert ours.array.dtype == reference.get_data_dtype()
            assert np.array_equal(ours.affine, reference.affine)
            seconds = interleave(
                {
                    "nibabel": lambda path=path: np.asanyarray(nib.load(path).dataobj),
                    "ours": lambda path=path: read_volume(path),
                },
                rounds,
            )
            ratios[name] = seconds["nibabel"] / seconds["ours"]
            row = {"scan": name, "nibabel ms": 1e3 * seconds["nibabel"]}
            rows.append(row | {"ours ms": 1e3 * seconds["ours"], "ratio": ratios[name]})
            print(f"{name}: nibabel / ours = {ratios[name]:.2f}")
    record("read_nifti", rows, ("nibabel", "isal", "numpy"))
    return ratios


if __name__ == "__main__":
    run()
