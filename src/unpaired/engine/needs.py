"""What a training on data sets would need, before anything is prepared."""

from collections.abc import Mapping
from dataclasses import replace

from unpaired.build import crop_rule, size_step
from unpaired.config import Config
from unpaired.config.schema import ModalityConfig
from unpaired.data.plan import Plan, make_plan
from unpaired.datasets.dataset import Dataset
from unpaired.engine.forecast import Forecast, forecast


def training_needs(
    config: Config, datasets: Mapping[str, Dataset], bad: Mapping[str, set[str]]
) -> tuple[Plan, Forecast]:
    """The plan's grid and patch, and what a step on it takes.

    The intensities are not read again: the plan's windows are not those of a training.

    Args:
        bad: case ids that cannot be read, by modality.

    Raises:
        DataError: no case is left, or no class is shared.
        UsageError: the configuration does not fit the data.
    """
    good = {
        modality: replace(
            dataset,
            cases=tuple(c for c in dataset.cases if c.label and c.id not in bad.get(modality, ())),
        )
        for modality, dataset in datasets.items()
    }
    quick = {modality: ModalityConfig(clip="percentile") for modality in good}
    step = size_step(config, config.data.dims)
    plan = make_plan(good, config.data, quick, step, crop=crop_rule(config))
    return plan, forecast(config, plan)
