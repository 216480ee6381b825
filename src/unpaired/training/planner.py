"""What an expert would choose for these scans, this machine and this much time.

Costs are measured, not looked up: candidate networks take a step on this machine, from the smallest
upwards, as long as enough of their steps fit. What the user sets is kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np

from unpaired.config import Config, load_config
from unpaired.config.load import parse_override
from unpaired.config.schema import ModalityConfig
from unpaired.data import measure
from unpaired.data.plan import Plan
from unpaired.datasets.dataset import Dataset
from unpaired.device import find_device
from unpaired.errors import DataError
from unpaired.io.read import read_image, read_label_image
from unpaired.methods import method_of
from unpaired.progress import duration
from unpaired.training.budget import (
    Cost,
    Schedule,
    TooLittleTimeError,
    as_budget,
    needed_seconds,
    schedule,
)
from unpaired.training.forecast import Forecast, forecast
from unpaired.training.prepare import labelled_only
from unpaired.training.region import coarser, is_part, patch_of, seen_mm, turned_of

PRESET = "default"
FEWEST_STEPS = 600
"""Fewer do not make a model: the smallest network is not begun."""
# Of the free memory, for what the estimate leaves out.
_ROOM = 0.8
# Resampling and writing, beside reading a scan; measured on scans of the trunk.
_PREPARING = 3.0
# A forward pass beside one with gradients.
_FORWARD = 0.35
_START_SECONDS = 10.0
# Of the coarsest map.
_SMALLEST_SIDE = 4


@dataclass(frozen=True)
class Size:
    """A candidate network.

    Attributes:
        width: channels of its first level.
        side: voxels that the longer side of a plane is brought to.
        steps: how many it should have, or it is not worth its cost.
    """

    width: int
    side: int
    steps: int
    blocks: tuple[int, ...] = (1, 1, 1, 1, 1, 1)
    batch: int = 2

    def batch_of(self, dims: int) -> int:
        """Patches of each modality in a step, at most; a volume holds many slices."""
        return self.batch if dims == 2 else max(1, self.batch // 4)

    @property
    def options(self) -> dict[str, object]:
        """Of the residual-encoder U-Net."""
        return {
            "base_width": self.width,
            "max_width": 16 * self.width,
            "stages": len(self.blocks),
            "blocks": self.blocks,
        }


_DEEP = (1, 2, 2, 2, 2, 2)
SIZES = {
    "cpu": (
        Size(32, 256, 8000, _DEEP),
        Size(32, 192, 6000, _DEEP),
        Size(24, 192, 4000),
        Size(16, 192, 3000),
        Size(16, 128, 1000),
        Size(8, 128, FEWEST_STEPS),
    ),
    "cuda": (
        Size(32, 512, 20000, (1, 3, 4, 6, 6, 6), 8),
        Size(32, 256, 10000, (1, 3, 4, 6, 6, 6), 8),
        Size(32, 256, 4000, _DEEP, 8),
        Size(16, 192, 1500, batch=8),
        Size(16, 128, 300, batch=8),
    ),
}
"""By device, the best first."""


@dataclass(frozen=True)
class Planned:
    """A configuration, and a sentence on each choice by its name."""

    config: Config
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Candidate:
    size: Size
    config: Config
    plan: Plan
    ahead: Forecast
    cost: Cost


def is_planned(overrides: Sequence[str]) -> bool:
    """Whether the network is left to the program: none is named."""
    return not any(key.startswith(_NETWORK) for key in _keys(overrides))


_NETWORK = ("model.name", "model.backbone", "model.options")


def plan_training(
    datasets: Mapping[str, Dataset], overrides: Sequence[str], budget: float
) -> Planned:
    """Choose network, grid, batch, steps and rate for a training that ends within the budget.

    Args:
        overrides: `key=value` as on the command line; these settings are not chosen.
        budget: seconds, preparation and validation included.

    Raises:
        UsageError: no network fits the budget, or a setting is wrong.
        DataError: no labelled case, no shared class, or damaged headers.
    """
    base = load_config(PRESET, None, overrides)
    given = _keys(overrides)
    labelled = labelled_only(datasets)
    device = find_device(base.train.device).type
    before = _START_SECONDS + _preparing_seconds(labelled, base.data.workers)
    asked = base.train.steps if "train.steps" in given else None
    best: tuple[_Candidate, Schedule] | None = None
    for candidate in _candidates(base, given, labelled, device, before):
        found = schedule(budget, candidate.cost, asked)
        wanted = asked or candidate.size.steps
        if found.steps >= wanted:
            best = candidate, found
            continue
        if best is None:
            least = needed_seconds(wanted, candidate.cost)
            raise TooLittleTimeError(
                f"a budget of {duration(budget)} holds {found.steps} steps of the smallest network "
                f"here; {wanted} are needed. Give --budget {as_budget(least)}, or name a smaller "
                "network (--preset).",
                least,
            )
        break  # larger ones cost more still
    assert best is not None
    return _planned(*best, budget, given)


def _keys(overrides: Sequence[str]) -> set[str]:
    """Full keys, `section.field`."""
    return {
        f"{section}.{name}"
        for text in overrides
        for section, table in parse_override(text).items()
        if isinstance(table, dict)
        for name in table
    }


def _candidates(
    base: Config, given: set[str], datasets: Mapping[str, Dataset], device: str, before: float
) -> Iterator[_Candidate]:
    """Measured, the smallest first: on a slow machine the large ones are never tried."""
    began = perf_counter()  # measuring is part of the budget
    # The windows of intensities cost nothing later and reading of all labels now.
    quick = {m: ModalityConfig(clip="percentile") for m in datasets}
    scans = measure.lattices(datasets)
    smallest = SIZES[device][-1]
    few = _with_size(base, replace(smallest, blocks=smallest.blocks[:2]), given)
    native = method_of(few).plan(few.model_copy(update={"modalities": quick}), datasets)
    turned = turned_of(scans, native)
    seen = seen_mm(datasets, native, turned)
    for size in reversed(SIZES[device]):
        size = _with_levels(size, native, seen)
        config = _with_size(base, size, given).model_copy(update={"modalities": quick})
        if "data.spacing_mm" not in given:
            spacing = coarser(native.spacing_mm, seen, size.side)
            if spacing != native.spacing_mm:
                config = config.replace(data={"spacing_mm": spacing})
            if config.data.dims == 2 and "data.patch" not in given and is_part(seen, turned):
                patch = patch_of(seen, spacing, 2 ** (len(size.blocks) - 1), size.side)
                config = config.replace(data={"patch": patch})
        plan = method_of(config).plan(config, datasets)
        ahead = forecast(config, plan)
        while ahead.memory_bytes > _ROOM * ahead.memory_available_bytes and (
            config.train.batch_size > 1 and "train.batch_size" not in given
        ):
            config = config.replace(train={"batch_size": config.train.batch_size // 2})
            ahead = forecast(config, plan)
        validation = _validation_seconds(config, plan, ahead, turned, datasets)
        cost = Cost(before + perf_counter() - began, ahead.seconds_per_step, validation)
        yield _Candidate(size, config.model_copy(update={"modalities": base.modalities}), plan,
                         ahead, cost)  # fmt: skip


def _with_size(base: Config, size: Size, given: set[str]) -> Config:
    tables: dict[str, dict[str, object]] = {"model": {"options": size.options}, "train": {}}
    if "train.batch_size" not in given:
        tables["train"]["batch_size"] = size.batch_of(base.data.dims)
    if "train.learning_rate" not in given:
        # Narrow networks bear larger steps: 2e-3 is the demo's, of width 16.
        tables["train"]["learning_rate"] = 2e-3 if size.width <= 16 else 1e-3
    return base.replace(**tables)


def _with_levels(size: Size, plan: Plan, seen: np.ndarray) -> Size:
    """Without the levels at which a patch would have fewer than four voxels on a side."""
    voxels = seen[1:] / coarser(plan.spacing_mm, seen, size.side)[1:]
    smallest = min(*voxels, *plan.patch[-2:])
    levels = int(np.log2(max(smallest, 8) / _SMALLEST_SIDE)) + 1
    return replace(size, blocks=size.blocks[: max(2, levels)])


def _preparing_seconds(datasets: Mapping[str, Dataset], workers: int) -> float:
    """From reading one case of each modality."""
    total = 0.0
    for dataset in datasets.values():
        case = dataset.cases[len(dataset.cases) // 2]
        began = perf_counter()
        try:
            for path in case.images:
                read_image(path)
            if case.label is not None:
                read_label_image(case.label)
        except DataError:  # preparation says which ones, and all of them
            continue
        total += (perf_counter() - began) * len(dataset.cases) * _PREPARING
    return total / max(1, min(workers, 2))


def _validation_seconds(
    config: Config,
    plan: Plan,
    ahead: Forecast,
    scans: Sequence[measure.Geometry],
    datasets: Mapping[str, Dataset],
) -> float:
    """One pass over the validation cases, tile by tile."""
    extent = measure.typical_extent_mm(scans)
    voxels = np.maximum(1, extent / plan.spacing_mm)
    patch = np.array([1, *plan.patch] if plan.dims == 2 else plan.patch)
    step = patch * (1 - config.predict.overlap)
    step[patch == 1] = 1
    tiles = np.prod(np.maximum(1, np.ceil((voxels - patch) / step) + 1))
    cases = sum(max(1, round(len(d.cases) * config.data.split[1])) for d in datasets.values())
    image = ahead.seconds_per_step / (config.train.batch_size * len(datasets))
    return float(cases * tiles * image * _FORWARD)


def _planned(candidate: _Candidate, found: Schedule, budget: float, given: set[str]) -> Planned:
    own: dict[str, object] = {"steps": found.steps}
    if "train.steps" not in given and "train.pace_minutes" not in given:
        own["pace_minutes"] = round(found.steps * candidate.cost.step / 60, 2)
    if "train.steps_per_epoch" not in given:
        own["steps_per_epoch"] = found.every
    if "train.warmup_steps" not in given:
        own["warmup_steps"] = max(10, found.steps // 20)
    chosen = replace(candidate, config=candidate.config.replace(train=own))
    reasons = {"network": _network(chosen), "batch": _batch(chosen)}
    reasons["steps"] = _steps(chosen, found, budget, "train.steps" in given)
    train = chosen.config.train
    reasons["learning rate"] = (
        f"{train.learning_rate:g} with {train.optimizer}, {train.warmup_steps} steps to rise, then "
        f"{train.schedule} to zero."
    )
    if "data.spacing_mm" not in given and chosen.config.data.spacing_mm is not None:
        reasons["spacing_mm"] = (
            f"Planes are made coarser until the longer side of a patch has {chosen.size.side} "
            "voxels: finer ones would leave too few steps in the budget."
        )
    if "data.patch" not in given and chosen.config.data.patch is not None:
        reasons["patch"] = (
            "A patch shows the labelled structures of a typical case and a third more around them; "
            "larger planes are tiled."
        )
    return Planned(chosen.config, reasons)


def _network(chosen: _Candidate) -> str:
    size, ahead = chosen.size, chosen.ahead
    return (
        f"Residual-encoder U-Net ({chosen.config.model.backbone}), {chosen.plan.dims}D, width "
        f"{size.width}, {len(size.blocks)} levels, {ahead.training_parameters:,} parameters in "
        f"training and {ahead.test_parameters:,} at test: the largest of "
        f"{len(SIZES[ahead.device])} candidates of which at least {size.steps} steps fit (measured "
        f"here, {ahead.device})."
    )


def _batch(chosen: _Candidate) -> str:
    patch = " x ".join(map(str, chosen.plan.patch))
    return (
        f"{chosen.config.train.batch_size} patches of {patch} a modality in a step: what memory "
        f"allows, at most {chosen.size.batch_of(chosen.plan.dims)}."
    )


def _steps(chosen: _Candidate, found: Schedule, budget: float, configured: bool) -> str:
    why = "as configured" if configured else f"what a budget of {duration(budget)} holds"
    cost = chosen.cost
    return (
        f"{found.steps} steps of {cost.step:.2g} s: {why}, with {duration(cost.before)} to prepare "
        f"and {found.validations} validations of {cost.validation:.1f} s; in all "
        f"{duration(found.seconds)}."
    )
