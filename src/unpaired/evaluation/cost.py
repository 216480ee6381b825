"""What segmenting a scan costs: floating-point operations, counted, so equal on every machine."""

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from unpaired.artifact.model import Model
from unpaired.data.preprocess import place
from unpaired.errors import DataError
from unpaired.inference.images import volumes_of
from unpaired.inference.inferer import Inferer, Looking
from unpaired.inference.tiling import make_tiling
from unpaired.run import RunFolder


def flops_of_a_scan(model: Model, run: RunFolder) -> float:
    """Operations of the network over the first validation case of its run.

    Patches, their overlap and mirroring count; reading and resampling do not.

    Raises:
        DataError: the run has no validation case, or it cannot be read.
    """
    cases = [case for known in run.cases("val").values() for case in known.values()]
    if not cases:
        raise DataError(f"{run.root}: the split has no val case.")
    case = cases[0]
    grid = place(volumes_of(list(case.images)), case.modality, model.plan).grid
    settings = model.config.predict
    inferer = Inferer.of(model, case.modality, torch.device("cpu"), precision="fp32")
    counter = FlopCounterMode(display=False)
    if isinstance(inferer.network, Looking):  # where it looks depends on the image
        channels = len(model.plan.modalities[case.modality].channel_names)
        with counter:
            for _ in inferer.scores(np.zeros((channels, *grid), np.float32)):
                pass
        return float(counter.get_total_flops())
    patches = len(make_tiling(grid, model.plan.patch, settings.overlap).corners())
    patch = torch.zeros(1, model.channels[case.modality], *model.plan.patch)
    with counter:
        inferer.network(patch)
    return float(counter.get_total_flops() * patches)
