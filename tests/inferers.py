"""Networks over images, with no plan of a run behind them."""

import torch

from tiny_model import tiny_plan
from unpaired.artifact.model import Network
from unpaired.config.schema import PredictConfig
from unpaired.inference.inferer import Inferer


def inferer_of(
    network: Network,
    patch: tuple[int, ...],
    context: int = 1,
    *,
    overlap: float = 0.5,
    batch_size: int = 8,
    autocast: torch.dtype | None = None,
) -> Inferer:
    """On the CPU; values are not checked as a configuration's are."""
    plan = tiny_plan().model_copy(update={"patch": patch, "context": context})
    settings = PredictConfig.model_construct(overlap=overlap, batch_size=batch_size)
    return Inferer(network, plan, settings, torch.device("cpu"), autocast)
