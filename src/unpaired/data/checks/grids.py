"""Where the voxels lie: channels and label on one grid, voxels of a usual shape."""

from collections.abc import Iterator

import numpy as np

from unpaired.data.checks.finding import Remark
from unpaired.io.volume import SAME_GRID_MM, Volume, same_grid

EXTREME_ANISOTROPY = 8.0


def same_place(image: Volume, other: Volume, kind: str) -> Iterator[Remark]:
    """A label or channel that lies elsewhere than the first image.

    Args:
        kind: "label" or "channel".
    """
    offset = same_grid(image, other)
    if offset <= SAME_GRID_MM:
        return
    if not np.isinf(offset):
        what = f"the {kind} lies up to {offset:.3g} mm off the image's grid"
        mend = f"resample the {kind} onto the image"
        if offset < 0.1 * min(image.spacing_mm):
            mend = "`unpaired check --fix-headers OUT` writes it with the image's geometry"
        yield Remark(f"{kind}-grid", "error", what, mend, f"{offset:.3g} mm")
        return
    sizes = [" x ".join(map(str, volume.array.shape)) for volume in (image, other)]
    what = f"the {kind} has {sizes[1]} voxels, the image {sizes[0]}"
    mend = f"resample the {kind} onto the image"
    yield Remark(f"{kind}-shape", "error", what, mend, f"{sizes[1]} voxels")


def voxel_shape(image: Volume) -> Iterator[Remark]:
    """Voxels that are very long, volumes of a single slice."""
    spacing = image.spacing_mm
    if max(spacing) > EXTREME_ANISOTROPY * min(spacing):
        text = " x ".join(f"{s:.3g}" for s in spacing)
        what = f"voxels are very long ({text} mm)"
        yield Remark("anisotropy", "note", what, "nothing; slices are learnt one by one, or crop")
    if 1 in image.array.shape:
        what = f"the volume has one slice ({' x '.join(map(str, image.array.shape))} voxels)"
        yield Remark("one-slice", "note", what, "nothing if it is meant so; else stack the slices")
