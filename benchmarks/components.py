"""The largest component of four classes at 512 x 512 x 150: ours against SciPy and cc3d.

The peers label every class, in the whole volume or in its bounding box; cc3d also all classes in
one pass over the box of the foreground. Every voxel is equal. Noise (128 x 128 x 128, each voxel a
class by chance) is the worst case for ours, whose cost is that of the runs of equal voxels.
"""

from collections.abc import Callable

import cc3d
import numpy as np
from scipy import ndimage

from _report import interleave, record
from resample import peak_mib
from surface import organs
from unpaired.metrics import keep_largest
from unpaired.metrics.surface import union_box

Boxes = list[tuple[slice, ...]]
WHOLE: Boxes = [(slice(None),) * 3] * 4


def boxes(labels: np.ndarray) -> Boxes:
    """Of each class; all are there."""
    return ndimage.find_objects(labels, 4)


def by_scipy(labels: np.ndarray, where: Boxes) -> np.ndarray:
    """SciPy class by class, each inside its box."""
    result = labels.copy()
    for cls, box in enumerate(where, start=1):
        number, _ = ndimage.label(labels[box] == cls)
        largest = np.argmax(np.bincount(number.ravel())[1:]) + 1
        result[box][(number > 0) & (number != largest)] = 0
    return result


def by_cc3d(labels: np.ndarray, where: Boxes) -> np.ndarray:
    """cc3d class by class, each inside its box."""
    result = labels.copy()
    for cls, box in enumerate(where, start=1):
        number = cc3d.connected_components(labels[box] == cls, connectivity=6)
        size = cc3d.statistics(number, no_slice_conversion=True)["voxel_counts"]
        result[box][(number > 0) & (number != np.argmax(size[1:]) + 1)] = 0
    return result


def by_cc3d_at_once(labels: np.ndarray) -> np.ndarray:
    """cc3d on the label map inside the box of the foreground, then the sizes class by class."""
    result = labels.copy()
    inside = result[union_box(labels, labels)]
    number = cc3d.connected_components(inside, connectivity=6)
    for cls, box in enumerate(boxes(inside), start=1):
        mask = inside[box] == cls
        largest = np.argmax(np.bincount(number[box][mask]))
        inside[box][mask & (number[box] != largest)] = 0
    return result


def main() -> None:
    """Print and record one row per volume and peer."""
    clean = organs(1)
    specks = clean.copy()
    rng = np.random.default_rng(0)
    specks.ravel()[rng.integers(0, specks.size, 20_000)] = rng.integers(1, 5, 20_000)
    peers: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "SciPy": lambda labels: by_scipy(labels, WHOLE),
        "SciPy in the box": lambda labels: by_scipy(labels, boxes(labels)),
        "cc3d in the box": lambda labels: by_cc3d(labels, boxes(labels)),
        "cc3d, classes at once": by_cc3d_at_once,
    }
    rows = []
    noise = rng.integers(0, 5, (128, 128, 128)).astype(np.uint8)
    for name, labels in {"clean organs": clean, "20,000 specks": specks, "noise": noise}.items():
        for peer, job in peers.items():
            rows.append(compare(name, peer, job, labels))
            print(rows[-1])
    record("components", rows, ("numpy", "scipy", "connected-components-3d"))


def compare(
    name: str, peer: str, job: Callable[[np.ndarray], np.ndarray], labels: np.ndarray
) -> dict[str, object]:
    """One row; the results are equal."""
    assert np.array_equal(job(labels), keep_largest(labels, {1, 2, 3, 4}))
    jobs = {"peer": lambda: job(labels), "ours": lambda: keep_largest(labels, {1, 2, 3, 4})}
    seconds = interleave(jobs, 5)
    return {
        "volume": name,
        "peer": peer,
        "peer ms": 1e3 * seconds["peer"],
        "ours ms": 1e3 * seconds["ours"],
        "ratio": seconds["peer"] / seconds["ours"],
        "peer MiB": peak_mib(jobs["peer"]),
        "ours MiB": peak_mib(jobs["ours"]),
    }


if __name__ == "__main__":
    main()
