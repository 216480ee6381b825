"""Reading .nii.gz: ours (one-shot inflate, CRC and length checked) against nibabel.

Goal: 1.5x on a CT of 512 x 512 x 150 int16, 5x on an MR of 256 x 256 x 36, bit-identical. The 5x
is not reached: "inflating alone" is the bare decoder on bytes in memory, a floor under every reader
of these files that keeps to one core.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from _report import interleave, record
from unpaired import inflate
from unpaired.io.nifti import read_volume

PIECE = 1 << 16


def scan(shape: tuple[int, int, int], background: int, seed: int = 0) -> np.ndarray:
    """A synthetic scan int16: smooth tissue with noise in an ellipse, constant air around."""
    rng = np.random.default_rng(seed)
    coarse = ndimage.gaussian_filter(rng.normal(size=[max(4, n // 8) for n in shape]), 1.5)
    tissue = ndimage.zoom(coarse, np.array(shape) / coarse.shape, order=1)
    tissue = tissue / tissue.std() * 60 + rng.normal(0, 12, shape) + (1000 + background)
    x, y, _ = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j, 0:1]
    body = (x / 0.8) ** 2 + (y / 0.6) ** 2 < 1
    return np.where(body, tissue, background).astype(np.int16)


def inflating(path: Path) -> Callable[[], object]:
    """The decoder with its CRC and nothing else: no file, no header, what comes out is dropped."""
    data = memoryview(path.read_bytes())

    def job() -> None:
        stream, start = inflate.decompressor(), 0
        while not stream.eof:
            piece = data[start : start + PIECE] if stream.needs_input else b""
            start += len(piece)
            stream.decompress(piece, 16 * PIECE)

    return job


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
                    "get_fdata": lambda path=path: nib.load(path).get_fdata(),
                    "ours": lambda path=path: read_volume(path),
                    "inflating alone": inflating(path),
                },
                rounds,
            )
            ratios[name] = seconds["nibabel"] / seconds["ours"]
            times = {f"{job} ms": 1e3 * spent for job, spent in seconds.items()}
            bound = seconds["nibabel"] / seconds["inflating alone"]
            parts = {"nibabel / ours": ratios[name], "nibabel / inflating": bound}
            rows.append({"scan": name, **times, **parts})
            print(f"{name}: nibabel / ours = {ratios[name]:.2f}, at most {bound:.2f}")
    record("read_nifti", rows, ("nibabel", "isal", "numpy"))
    return ratios


if __name__ == "__main__":
    run()
