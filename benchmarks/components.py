"""The largest component of four classes at 512 x 512 x 150: ours against SciPy's labelling.

The peers label every class, in the whole volume or in its bounding box; every voxel is equal.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from _report import interleave, record
from resample import peak_mib
from surface import organs
from unpaired.metrics import keep_largest


def plain(labels: np.ndarray, boxes: list[tuple[slice, ...]]) -> np.ndarray:
    """SciPy class by class, each inside its box."""
    result = labels.copy()
    for cls, box in enumerate(boxes, start=1):
        number, count = ndimage.label(labels[box] == cls)
        if count:
            largest = np.argmax(np.bincount(number.ravel())[1:]) + 1
            result[box][(number > 0) & (number != largest)] = 0
    return result


def main() -> None:
    """Print and record one row per volume and peer."""
    clean = organs(1)
    specks = clean.copy()
    rng = np.random.default_rng(0)
    specks.ravel()[rng.integers(0, specks.size, 20_000)] = rng.integers(1, 5, 20_000)
    whole = [tuple(slice(0, n) for n in clean.shape)] * 4
    peers: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "SciPy": lambda labels: plain(labels, whole),
        "SciPy in the box": lambda labels: plain(labels, ndimage.find_objects(labels, 4)),
    }
    rows = []
    for name, labels in {"clean organs": clean, "20,000 specks": specks}.items():
        for peer, job in peers.items():
            rows.append(compare(name, peer, job, labels))
            print(rows[-1])
    record("components", rows, ("numpy", "scipy"))


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
