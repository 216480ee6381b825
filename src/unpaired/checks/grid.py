"""What the grid of a training would lose: classes thinner than its voxels. Only labels are read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from unpaired.checks.check import over_cases
from unpaired.checks.cohort import ScanSummary
from unpaired.checks.finding import Finding, Remark
from unpaired.config import DataConfig, ModalityConfig
from unpaired.data.content import Box
from unpaired.data.lost import MAX_LABELS, Loss, Volumes, class_volumes, losses, spacing_that_keeps
from unpaired.data.make_plan import make_plan
from unpaired.data.plan import Plan
from unpaired.data.prepare import cropped
from unpaired.data.preprocess import Placement, place, preprocess_label, slices
from unpaired.datasets.dataset import Case, Dataset, value_table
from unpaired.errors import DataError
from unpaired.io.read import read_label_image
from unpaired.io.volume import Volume

MAX_CASES = 32
"""Of a modality that are looked at, evenly spaced."""
Boxes = Mapping[tuple[str, str], Box]
Found = tuple[str, str, dict[int, Volumes]]


def default_plan(datasets: Mapping[str, Dataset], scans: Sequence[ScanSummary]) -> Plan | None:
    """The grid of a training with default settings, from headers; None where there can be none."""
    sound = {(scan.modality, scan.case) for scan in scans if scan.shape}
    labelled = {
        m: replace(dataset, cases=tuple(_by_label(c) for c in dataset.cases if (m, c.id) in sound))
        for m, dataset in datasets.items()
        if dataset.labels
    }
    quick = {m: ModalityConfig(clip="none") for m in labelled}
    try:
        return make_plan(labelled, DataConfig(), quick, (1, 1)) if labelled else None
    except DataError:
        return None


def lost_classes(
    datasets: Mapping[str, Dataset], scans: Sequence[ScanSummary], plan: Plan, workers: int = 0
) -> Iterator[Finding]:
    """Classes that cases would lose on the grid of a plan.

    At most `MAX_CASES` labels of a modality are read; what is wrong with a scan is said elsewhere.
    """
    boxes = {(s.modality, s.case): s.box for s in scans if s.box and s.voxels and s.shape}
    jobs = [
        (case, dataset)
        for m, dataset in datasets.items()
        if m in plan.modalities
        for case in _some([c for c in dataset.cases if c.label and (m, c.id) in boxes])
    ]
    volumes: dict[str, dict[str, dict[int, Volumes]]] = {}
    for m, case, found in over_cases(partial(_volumes, plan=plan, boxes=boxes), jobs, workers):
        volumes.setdefault(m, {})[case] = found
    cases = {(case.modality, case.id): (case, dataset) for case, dataset in jobs}
    for m, known in sorted(volumes.items()):
        for loss in losses(m, dict(sorted(known.items())), plan.classes):
            own = [cases[m, case] for case in loss.cases]
            if loss.by == "grid":
                loss = replace(loss, spacing_mm=_keeping(loss, own[:MAX_LABELS], plan, boxes))
            amount = f"{len(loss.cases)} of {loss.held} cases"
            remark = Remark("lost-class", "warning", loss.what(plan), loss.mend(), amount)
            yield remark.about(m, loss.cases[0], own[0][0].label)


def _volumes(case: Case, dataset: Dataset, plan: Plan, boxes: Boxes) -> Found:
    try:
        label, where, table = _placed(case, dataset, plan, boxes)
        grid = preprocess_label(label, where, table, len(plan.classes))
        crop, _ = cropped(grid, where, plan, plan.modalities[case.modality])
    except DataError:
        return case.modality, case.id, {}
    voxel_mm3 = float(np.prod(where.spacing_mm))
    return case.modality, case.id, class_volumes(label, table, grid, crop, voxel_mm3)


def _keeping(
    loss: Loss, cases: Sequence[tuple[Case, Dataset]], plan: Plan, boxes: Boxes
) -> tuple[float, float, float] | None:
    labels = [_placed(case, dataset, plan, boxes) for case, dataset in cases]
    return spacing_that_keeps(plan.classes.index(loss.cls), labels, plan.spacing_mm)


def _placed(
    case: Case, dataset: Dataset, plan: Plan, boxes: Boxes
) -> tuple[Volume, Placement, dict[int, int]]:
    """The label, where its image lies on the plan's grid, and the meaning of its values."""
    assert case.label is not None
    label = read_label_image(case.label)
    # In place of the image: of the same grid, and with content in the same box.
    content = np.zeros(label.array.shape, np.uint8)
    content[slices(boxes[case.modality, case.id])] = 1
    image = replace(label, array=content)
    where = place([image] * len(dataset.channel_names), case.modality, plan)
    return label, where, value_table(dataset, plan.classes)


def _by_label(case: Case) -> Case:
    """The label in place of the images: of the same grid, and quick to open in every format."""
    return case if case.label is None else replace(case, images=(case.label,))


def _some(cases: Sequence[Case]) -> list[Case]:
    step = max(1, -(-len(cases) // MAX_CASES))
    return list(cases[::step])
