"""How far from the structures' centre a localising model looks, in millimetres."""

from pathlib import Path
from typing import Literal

import numpy as np

from unpaired.artifact.model import load_member, model_folders
from unpaired.data.cache import open_prepared
from unpaired.data.coarse import structures_centre
from unpaired.device import find_device
from unpaired.errors import UsageError
from unpaired.evaluation.run import read_recorded
from unpaired.inference.located import Located
from unpaired.training.validate import Intensities


def localisation_errors_mm(
    run: Path | str, part: Literal["train", "val", "test"] = "val", device: str = "auto"
) -> dict[str, dict[str, float]]:
    """Distance between the found and the true centre of the box around all structures.

    Returns:
        modality -> case id -> mm, for the prepared cases of this part of the run's split.

    Raises:
        UsageError: the run's model does not localise.
        DataError: no model, or no prepared cases.
    """
    member = load_member(model_folders(Path(run))[0])
    where = find_device(device)
    member.segmenter.to(where)
    record = read_recorded(Path(run))
    cached = open_prepared(record.prepared).cases
    errors: dict[str, dict[str, float]] = {}
    for m, wanted in record.part(part).items():
        network = member.network(m)
        if not isinstance(network, Located):
            raise UsageError(f"the model of {run} does not localise; it segments patch by patch.")
        errors[m] = {}
        for case in cached[m]:
            label = case.label()
            if case.id not in wanted or label is None or not label.any():
                continue
            off = network.centre(Intensities(case), where) - structures_centre(label)
            errors[m][case.id] = float(np.linalg.norm(off * case.spacing_mm))
    return errors
