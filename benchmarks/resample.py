"""Cubic resampling against skimage; labels against nnU-Net's method, on skimage, written by us.

Goals: images 4x shrinking and 20x enlarging, equal within 1e-3 of the range after the same clip;
labels 10x, every voxel equal to the arg max of the whole resampled one-hot array. One thread each.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from skimage.transform import resize

from _report import interleave, record
from read_nifti import scan
from unpaired.io.resample import neighbours, resample_image, resample_label

CASES = {
    "CT 512x512x150 to 1.5x1.5x3 mm": ((512, 512, 150), (273, 273, 100)),
    "MR 256x256x36 to 1 mm": ((256, 256, 36), (384, 384, 216)),
}
CLASSES = 5


def organs(shape: tuple[int, int, int]) -> np.ndarray:
    """Ellipsoids of several sizes, uint8."""
    rng = np.random.default_rng(0)
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    label = np.zeros(shape, np.uint8)
    for value in range(1, CLASSES):
        centre, radius = rng.uniform(0.3, 0.7, 3) * shape, rng.uniform(0.08, 0.22, 3) * shape
        parts = zip(grid, centre, radius, strict=True)
        label[sum(((x - c) / r) ** 2 for x, c, r in parts) < 1] = value
    return label


def skimage_cubic(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """nnU-Net's image resampling."""
    return resize(
        image, shape, order=3, mode="edge", clip=True, anti_aliasing=False, preserve_range=True
    )


def nnunet_label(label: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """nnU-Net's label resampling: per class linear over the whole grid, then >= 1/2."""
    out = np.zeros(shape, label.dtype)
    for value in np.unique(label):
        mask = (label == value).astype(float)
        out[resize(mask, shape, order=1, mode="edge", clip=True, anti_aliasing=False) >= 0.5] = (
            value
        )
    return out


def one_hot_argmax(label: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The plain way in exact integers, all classes over the whole grid."""
    best = np.full(shape, -1, np.int64)
    out = np.zeros(shape, np.uint8)
    for value in range(CLASSES):
        score = (label == value).astype(np.int64)
        for axis, (n_in, n_out) in enumerate(zip(label.shape, shape, strict=True)):
            pair = neighbours(n_in, n_out)
            weight = pair.weight.reshape([-1 if a == axis else 1 for a in range(3)])
            low, high = score.take(pair.below, axis), score.take(pair.above, axis)
            score = low * (pair.total - weight) + high * weight
        out[score > best] = value
        np.maximum(best, score, out=best)
    return out


def peak_mib(job: Callable[[], object]) -> float:
    """How far the memory of this process rises during `job`, MiB (Linux; else nan)."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not clear.exists():
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)  # or memory freed earlier is used again, unseen
    clear.write_text("5")  # resets the high-water mark
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    before = int(fields["VmRSS"].split()[0])
    result = job()
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    del result
    return (int(fields["VmHWM"].split()[0]) - before) / 1024


def images(name: str, old: tuple[int, int, int], new: tuple[int, int, int]) -> dict[str, object]:
    """One row: cubic resampling."""
    image = scan(old, -1000).astype(np.float32)
    tensor = torch.from_numpy(image)
    theirs, ours = skimage_cubic(image, new), resample_image(tensor, new).numpy()
    error = float(np.abs(ours - theirs).max() / np.ptp(image))
    assert error < 1e-3
    jobs = {"peer": lambda: skimage_cubic(image, new), "ours": lambda: resample_image(tensor, new)}
    return row(f"image, {name}", "skimage order 3", jobs, f"{error:.1e} of the range")


def labels(name: str, old: tuple[int, int, int], new: tuple[int, int, int]) -> dict[str, object]:
    """One row: labels of five classes."""
    label = organs(old)
    ours, theirs = resample_label(label, new, CLASSES), nnunet_label(label, new)
    assert np.array_equal(ours, one_hot_argmax(label, new))
    # nnU-Net leaves 0 where no class reaches 1/2 and gives exact ties to the higher class.
    differ = float((ours != theirs).mean())
    assert differ < 2e-3
    jobs = {
        "peer": lambda: nnunet_label(label, new),
        "ours": lambda: resample_label(label, new, CLASSES),
    }
    return row(f"label, {name}", "nnU-Net's method", jobs, f"{differ:.1e} of the voxels")


def row(
    job: str, peer: str, jobs: dict[str, Callable[[], object]], differ: str
) -> dict[str, object]:
    """Measure both; a line of the table, also printed."""
    seconds = interleave(jobs)
    memory = {f"{name} MiB": peak_mib(work) for name, work in jobs.items()}
    ratio = seconds["peer"] / seconds["ours"]
    print(f"{job}: {peer} / ours = {ratio:.1f}, differ by {differ}, {memory}")
    times = {"peer ms": 1e3 * seconds["peer"], "ours ms": 1e3 * seconds["ours"]}
    return {"job": job, "peer": peer, **times, "ratio": ratio, **memory, "differ by": differ}


def run() -> dict[str, float]:
    """Measure, assert, record; the ratio per job. One thread each, since skimage has no more."""
    torch.set_num_threads(1)
    rows = [job(name, *sizes) for job in (images, labels) for name, sizes in CASES.items()]
    record("resample", rows, ("torch", "numpy", "scikit-image"))
    return {str(line["job"]): float(str(line["ratio"])) for line in rows}


if __name__ == "__main__":
    run()
