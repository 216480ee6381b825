"""Making the plan: one grid and scale for all images, each choice with its reason."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unpaired.config import DataConfig, ModalityConfig
from unpaired.data import measure, plan_rules
from unpaired.data.plan import Clip, ModalityPlan, Plan
from unpaired.data.plan_rules import with_frames
from unpaired.data.units import is_quantitative
from unpaired.datasets.dataset import (
    IGNORED,
    Case,
    Dataset,
    class_names,
    classes_left_out,
    foreground_values,
)
from unpaired.datasets.planes import Lattice, Planes, common_planes, orient
from unpaired.errors import DataError, UsageError
from unpaired.io.volume import SliceAxis

PERCENTILES = (0.5, 99.5)
_NEARLY_EQUAL = 1.05
SEED = 0
"""Of the cases and voxels that intensities are learnt from."""


@dataclass(frozen=True)
class Grid:
    """What is decided when a method's own rule is asked.

    Attributes:
        train: case ids per modality that may be learnt from; None: all.
        geometries: of every case: slices, rows, columns.
        slice_axis, planes: how a scan's axes are turned into these, for `orient`.
        spacing_mm: target spacing (slice axis, row, column).
        multiple: what the backbone takes, one number per axis of the patch.
        patch: the configured one.
    """

    datasets: Mapping[str, Dataset]
    classes: tuple[str, ...]
    train: Mapping[str, Sequence[str]] | None
    geometries: Sequence[measure.Geometry]
    slice_axis: SliceAxis
    planes: Planes | None
    spacing_mm: tuple[float, float, float]
    multiple: tuple[int, ...]
    patch: tuple[int, ...] | None


PlanRule = Callable[[Grid], tuple[dict[str, Any], dict[str, str]]]
"""A method's own choices: fields of the plan, such as the patch, and the reasons."""


def make_plan(
    datasets: Mapping[str, Dataset],
    data: DataConfig,
    modalities: Mapping[str, ModalityConfig],
    multiple: tuple[int, ...],
    *,
    train: Mapping[str, Sequence[str]] | None = None,
    rule: PlanRule | None = None,
) -> Plan:
    """Choose the grid and the intensity scale for these data sets.

    Args:
        multiple: the backbone takes patches that are multiples of this: (rows, columns), or
            (slices, rows, columns) for a network of volumes.
        train: case ids per modality from which intensities (and boxes) are learnt; default: all.
        rule: of a method that chooses more, or otherwise than by the sizes of the images.

    Raises:
        DataError: no shared class, no case, or damaged files.
        UsageError: a configured value is illegal.
    """
    classes = class_names(datasets, data.classes)
    if len(classes) > IGNORED:
        raise DataError(f"{len(classes)} classes, but at most {IGNORED} with the background.")
    if data.context < 1 or data.context % 2 == 0:
        raise UsageError(f"data.context is {data.context}; it must be odd, such as 1 or 3.")
    scans = measure.lattices(datasets)
    left_out = classes_left_out(datasets, data.classes)
    reasons = {"classes": left_out} if left_out else {}
    axis, planes, reasons["slice_axis"] = _slice_axis(scans, data.slice_axis)
    geometries = [measure.turned(scan, orient(scan, axis, planes)) for scan in scans]
    spacing, reasons["spacing_mm"] = _spacing(geometries, data.spacing_mm)
    fields: dict[str, Any] = {}
    if rule is not None:
        grid = Grid(
            datasets, classes, train, geometries, axis, planes, spacing, multiple, data.patch
        )
        fields, rule_reasons = rule(grid)
        reasons |= rule_reasons
    if "patch" not in fields:
        fields["patch"], reasons["patch"] = plan_rules.choose(
            geometries, spacing, data.patch, multiple, data.plane
        )
    plans = {}
    for name, dataset in datasets.items():
        cases = [c for c in dataset.cases if train is None or c.id in set(train.get(name, ()))]
        sample = _Sample(dataset, foreground_values(dataset, classes), cases)
        plans[name], reasons[f"modalities.{name}"] = _modality(sample, modalities.get(name))
    plan = Plan(
        classes=classes,
        modalities=plans,
        spacing_mm=spacing,
        slice_axis=axis,
        planes=planes,
        context=data.context if len(fields["patch"]) == 2 else 1,
        order=data.interpolation,
        reasons=reasons,
        **fields,
    )
    return with_frames(plan, data.plane, modalities)


def _slice_axis(
    scans: Sequence[Lattice], wanted: Literal["auto", "S", "P", "L"]
) -> tuple[SliceAxis, Planes | None, str]:
    if wanted != "auto":
        return wanted, None, f"Slices are stacked along {wanted}, as configured."
    patient = [measure.turned(scan, orient(scan, "S", None)).spacing_mm for scan in scans]
    median = np.median(patient, axis=0)
    text = " x ".join(f"{value:.3g}" for value in median)
    coarsest = int(median.argmax())
    letters: tuple[SliceAxis, ...] = ("S", "P", "L")
    clear = median[coarsest] >= _NEARLY_EQUAL * np.delete(median, coarsest).max()
    usual = letters[coarsest] if clear else "S"
    planes, axis, agree = common_planes(scans, usual)
    name = {"S": "axial", "P": "coronal", "L": "sagittal"}[axis]
    cases = f"(median S x P x L {text} mm over {len(scans)} cases)"
    if not agree:
        thick = sum(scan.through_plane is not None for scan in scans)
        why = (
            f"Slices are those that were acquired, turned to the directions that {thick} of "
            f"{len(scans)} scans have in common: the planes of these lie oblique to the patient's "
            f"axes, or to each other ({name} comes closest)."
        )
    elif axis != usual:
        why = f"Slices are {name}: those of the scans with thick slices, along {axis} {cases}."
    elif not clear:
        why = f"Axial slices, since no axis is clearly the coarsest (S x P x L {text} mm)."
    else:
        why = f"Slices are {name}: {axis} is the coarsest axis {cases}."
    return axis, planes, why


def _spacing(
    geometries: Sequence[measure.Geometry],
    wanted: tuple[float, float, float] | None,
) -> tuple[tuple[float, float, float], str]:
    if wanted is not None:
        if min(wanted) <= 0:
            raise UsageError(f"data.spacing_mm is {wanted}; each must be above 0.")
        return wanted, "The target spacing is as configured."
    median = np.median([geometry.spacing_mm for geometry in geometries], axis=0)
    reason = f"The target spacing is the median over all {len(geometries)} cases of all modalities"
    if median[1:].max() < _NEARLY_EQUAL * median[1:].min() and median[1] != median[2]:
        median[1:] = median[1:].mean()
        reason += ", made equal in-plane since rows and columns differ by less than 5 %"
    d, h, w = (round(float(value), 4) for value in median)
    return (d, h, w), reason + "."


class _Sample:
    """One modality's labelled intensities, read when first asked for."""

    def __init__(self, dataset: Dataset, values: Sequence[int], cases: Sequence[Case]) -> None:
        self.dataset = dataset
        self._draw = (dataset, values, cases)
        self._values: list[np.ndarray] | None = None

    def channel(self, k: int) -> np.ndarray:
        if self._values is None:
            self._values = measure.foreground(*self._draw, SEED)
        return self._values[k]


def _modality(sample: _Sample, options: ModalityConfig | None) -> tuple[ModalityPlan, str]:
    names = sample.dataset.channel_names
    pairs = [_clip(sample, k, name, options) for k, name in enumerate(names)]
    clips, reasons = tuple(clip for clip, _ in pairs), [reason for _, reason in pairs]
    if options is None or options.zscore == "volume":
        reasons.append("Each volume is brought to mean 0 and deviation 1.")
        return ModalityPlan(channel_names=names, clip=clips), " ".join(reasons)
    moments = [_moments(sample, k, clip) for k, clip in enumerate(clips)]
    reasons.append("Mean and deviation come from the labelled voxels of all cases, as configured.")
    plan = ModalityPlan(
        channel_names=names,
        clip=clips,
        zscore="dataset",
        mean=tuple(mean for mean, _ in moments),
        std=tuple(std for _, std in moments),
    )
    return plan, " ".join(reasons)


def _clip(sample: _Sample, k: int, name: str, options: ModalityConfig | None) -> tuple[Clip, str]:
    kind = "auto" if options is None else options.clip
    low = None if options is None else options.low
    high = None if options is None else options.high
    if low is not None and high is not None and low >= high:
        raise UsageError(f"the clip of channel {name} runs from {low:g} to {high:g}; swap them.")
    # The name of the channel decides, never the key under which the user filed the modality.
    quantitative = is_quantitative(name)
    if kind == "none":
        return Clip(kind="percentile", low=0, high=100), f"{name} is not clipped, as configured."
    if kind == "percentile" or (kind == "auto" and not quantitative):
        return _percentiles(name, low, high, kind)
    if low is not None and high is not None:
        clip = Clip(kind="window", low=low, high=high)
        return clip, f"{name} is clipped to {low:g} .. {high:g}, as configured."
    values = sample.channel(k)
    if not len(values):
        clip, _ = _percentiles(name, None, None, "auto")
        return clip, f"{name} is clipped at its percentiles: there is no labelled voxel."
    window = np.percentile(values, PERCENTILES)
    clip = Clip(
        kind="window",
        low=round(float(window[0]), 4) if low is None else low,
        high=round(float(window[1]), 4) if high is None else high,
    )
    why = "its units mean the same in every scan" if kind == "auto" else "as configured"
    return clip, (
        f"{name} is clipped to {clip.low:g} .. {clip.high:g}, the {PERCENTILES[0]:g} and "
        f"{PERCENTILES[1]:g} percentiles of labelled voxels ({why})."
    )


def _percentiles(name: str, low: float | None, high: float | None, kind: str) -> tuple[Clip, str]:
    low = PERCENTILES[0] if low is None else low
    high = PERCENTILES[1] if high is None else high
    if not 0 <= low < high <= 100:
        raise UsageError(f"the clip of channel {name}, {low:g} .. {high:g}, is not in percent.")
    why = "its units differ from scan to scan" if kind == "auto" else "as configured"
    clip = Clip(kind="percentile", low=low, high=high)
    return clip, f"{name} is clipped at each volume's {low:g} and {high:g} percentiles ({why})."


def _moments(sample: _Sample, k: int, clip: Clip) -> tuple[float, float]:
    values = sample.channel(k).astype(np.float64)
    if not len(values):
        raise DataError(
            f'{sample.dataset.root}: zscore = "dataset" needs labelled voxels, there are none; '
            'set zscore = "volume".'
        )
    limits = (clip.low, clip.high)
    if clip.kind == "percentile":
        limits = tuple(np.percentile(values, limits))
    values = values.clip(*limits)
    return float(values.mean()), float(max(values.std(), 1e-8))
