"""How far from the structures' centre a localising model looks, in millimetres."""

from pathlib import Path

import numpy as np

from unpaired.artifact.model import Model
from unpaired.artifact.places import model_folders
from unpaired.data.cache import Intensities
from unpaired.data.frame import of_a_class
from unpaired.device import find_device
from unpaired.errors import UsageError
from unpaired.methods.payer.crops import structures_centre
from unpaired.methods.payer.inference import Located
from unpaired.run import RunFolder
from unpaired.run.folder import Part


def localisation_errors_mm(
    run: Path | str, part: Part = "val", device: str = "auto"
) -> dict[str, dict[str, float]]:
    """Distance between the found and the true centre of the box around all structures.

    Returns:
        modality -> case id -> mm, for the prepared cases of this part of the run's split.

    Raises:
        UsageError: the run's model does not localise.
        DataError: no model, or no prepared cases.
    """
    model = Model.load(model_folders(Path(run))[0])
    where = find_device(device)
    model.segmenter.to(where)
    folder = RunFolder(run)
    errors: dict[str, dict[str, float]] = {}
    for m, wanted in folder.cases(part).items():
        network = model.network(m)
        if not isinstance(network, Located):
            raise UsageError(f"the model of {run} does not localise; it segments patch by patch.")
        errors[m] = {}
        for case in folder.prepared[m].values():
            label = case.label()
            if case.id not in wanted or label is None or not of_a_class(label).any():
                continue
            off = network.centre(Intensities(case), where) - structures_centre(label)
            errors[m][case.id] = float(np.linalg.norm(off * case.spacing_mm))
    return errors
