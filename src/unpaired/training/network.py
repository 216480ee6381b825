"""Faults of a configuration, found before any case is prepared."""

from collections.abc import Iterable

import torch

from unpaired.config import Config
from unpaired.data.plan import Plan
from unpaired.device import autocast_dtype, find_device
from unpaired.errors import UnpairedError, UsageError
from unpaired.methods import Method
from unpaired.names import did_you_mean
from unpaired.run import RunFolder
from unpaired.training.optim import build_optimizer
from unpaired.training.pretrained import start_from_files


def check_device(config: Config) -> None:
    """Refuse a device that is not there, and a number format that it cannot compute in.

    Raises:
        ResourceError, UsageError: saying what to choose.
    """
    autocast_dtype(config.train.precision, find_device(config.train.device))


def check_network(config: Config, method: Method, plan: Plan, run: RunFolder) -> None:
    """Build once, on the CPU, what will be trained, and drop it; global randomness stays.

    Raises:
        UsageError: an option, a weight of a class or a class's name does not fit the plan.
        DataError: a file of weights is at fault.
    """
    _check_names("predict.largest_component", config.predict.largest_component, plan)
    if isinstance(config.evaluate.tolerance_mm, dict):
        _check_names("evaluate.tolerance_mm", config.evaluate.tolerance_mm, plan)
    with torch.random.fork_rng(devices=[]):
        try:
            joint = method.joint(config, plan)
            method.objective(config, plan)
            build_optimizer(joint, config.train, joint.segmenter.backbone.no_decay)
        except UnpairedError:
            raise
        except Exception as error:  # constructors of others raise what they like
            raise UsageError(
                f"the network {config.model.network} cannot be built with these settings: "
                f"{str(error).strip() or type(error).__name__}. Change model.options or data.patch."
            ) from error
        start_from_files(joint, config, run, leads=False)


def _check_names(key: str, names: Iterable[str], plan: Plan) -> None:
    known = plan.classes[1:]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UsageError(
                f"{key} names {name!r}, which is no class of these data.{hint} They are "
                f"{', '.join(known)}."
            )
