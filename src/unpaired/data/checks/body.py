"""The body in an image, roughly, and what of a label lies outside it."""

from collections.abc import Iterator, Mapping

import numpy as np
from scipy import ndimage

from unpaired.data.checks.finding import Index, Remark
from unpaired.io.volume import Volume, canonical_orientation

# Fewer voxels along an axis show no body.
_SMALLEST, _SIDE = 16, 96
_PIECE = 0.1
OUTSIDE_SHARE = 0.1


def outside_body(image: Volume, label: Volume, labels: Mapping[str, int]) -> Iterator[Remark]:
    """Classes of which a good part lies in the air around the patient, in per cent."""
    if image.array.shape != label.array.shape or min(image.array.shape) < _SMALLEST:
        return
    steps = tuple(max(1, n // _SIDE) for n in image.array.shape)
    some = tuple(slice(None, None, step) for step in steps)
    parts = label.array[some]
    seen = image.array[some]
    if not parts.any() or seen.min() == seen.max():
        return
    turn = canonical_orientation(image.affine)
    inside = turn.undo(body(turn.apply(seen)))
    outside: list[tuple[float, str, Index]] = []
    for name, value in labels.items():
        own = parts == value
        count = np.count_nonzero(own)
        if not value or not count:
            continue
        stray = own & ~inside
        share = np.count_nonzero(stray) / count
        if share > OUTSIDE_SHARE:
            i, j, k = np.unravel_index(int(stray.argmax()), stray.shape)
            at = (int(i) * steps[0], int(j) * steps[1], int(k) * steps[2])
            outside.append((share, name, at))
    if outside:
        text = ", ".join(f"{100 * share:.0f} % of {name}" for share, name, _ in outside)
        worst = max(outside)
        what = f"the label lies in the air around the body: {text}"
        mend = "see whether image and label belong together, and neither is mirrored"
        yield Remark("outside", "warning", what, mend, f"{100 * worst[0]:.0f} %", worst[2])


def body(image: np.ndarray) -> np.ndarray:
    """What is not air, bool [d h w] from canonical [d h w]; holes in a slice (lungs) belong to it.

    Air is the lowest tenth of the range: below -800 in a CT, noise in an MR.
    """
    low, high = (float(p) for p in np.percentile(image, (0.5, 99)))
    bright = image > low + 0.1 * (high - low)
    pieces, _ = ndimage.label(ndimage.binary_opening(bright))
    sizes = np.bincount(pieces.ravel(), minlength=2)
    sizes[0] = 0
    # Not the largest piece only: a lost slice, or two legs, part a body.
    core = (sizes >= _PIECE * sizes.max())[pieces] & (pieces > 0)
    closed = ndimage.binary_closing(core, iterations=2) | core
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in closed])
    return np.asarray(ndimage.binary_dilation(filled, iterations=2))
