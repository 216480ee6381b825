"""Prepared cases made by hand, to be read back as training reads them."""

from pathlib import Path

import numpy as np

from unpaired.data.cache import PreparedCase, read_case, write_case
from unpaired.data.preprocess import PreparedImage
from unpaired.io.volume import Orientation


def write_small(
    folder: Path, case: str, image: np.ndarray, label: np.ndarray, spacing_mm=(6.0, 3.0, 3.0)
) -> PreparedCase:
    """Store an image [K d h w] and its label as `prepare` does, and open it."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = image.shape[1:]
    box = tuple((0, n) for n in shape)
    turn = Orientation((0, 1, 2), (False, False, False))
    prepared = PreparedImage(turn, shape, box, shape, spacing_mm, image.astype(np.float32))
    write_case(folder, prepared, label, {"id": case, "modality": "a", "patient": case})
    return read_case(folder, case)
