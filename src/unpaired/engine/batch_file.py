"""A batch on disk, for looking at what broke a training."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from unpaired.data.sampling import Batch
from unpaired.files import atomic


def save_batches(path: Path, batches: Mapping[str, Batch]) -> None:
    """Write an .npz: `<modality>/image` [B K h w], `/label` [B h w] and `/case`."""
    arrays: dict[str, np.ndarray] = {}
    for m, batch in batches.items():
        arrays[f"{m}/image"] = batch.image.cpu().numpy()
        arrays[f"{m}/label"] = batch.label.cpu().numpy()
        arrays[f"{m}/case"] = np.array(batch.case)
    with atomic(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
