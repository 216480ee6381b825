"""Folding is exact: the plain network of one modality against the live one."""

import torch

from unpaired.build import input_channels
from unpaired.data.plan import Plan
from unpaired.models import Segmenter, fold


@torch.no_grad()
def fold_difference(segmenter: Segmenter, plan: Plan, seed: int = 0) -> dict[str, float]:
    """Per modality, the largest difference of the logits, relative to their largest, in float64."""
    generator = torch.Generator().manual_seed(seed)
    exact = segmenter.double().eval()
    found = {}
    for m, channels in input_channels(plan).items():
        shape = (1, channels, *plan.patch)
        image = torch.randn(shape, generator=generator, dtype=torch.float64)
        live = exact(image, m).logits
        folded = fold(exact, m)(image).logits
        found[m] = float((live - folded).abs().max() / live.abs().max())
    return found
