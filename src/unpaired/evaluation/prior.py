"""The floor: what one scores by position alone, without looking at the image."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Integer, UInt8

from unpaired.data.cache import PreparedCase
from unpaired.datasets.dataset import IGNORED
from unpaired.errors import DataError
from unpaired.metrics import dice
from unpaired.run import RunFolder

THRESHOLD = 0.35  # a class is named where it was found in more than this share of training cases

Label = Integer[np.ndarray, "_ _ _"]  # every case has its own size


def centred(label: Label, shape: tuple[int, int, int]) -> Label:
    """Crop or pad `label` with background to `shape`, centre on centre on every axis.

    Where the difference is odd, the voxel more falls on the high side.
    """
    out = np.zeros(shape, label.dtype)
    source, target = [], []
    for have, want in zip(label.shape, shape, strict=True):
        size = min(have, want)
        source.append(slice((have - size) // 2, (have - size) // 2 + size))
        target.append(slice((want - size) // 2, (want - size) // 2 + size))
    out[tuple(target)] = label[tuple(source)]
    return out


def location_prior(
    train_labels: Sequence[Label], classes: int, shape: tuple[int, int, int]
) -> UInt8[np.ndarray, "d h w"]:
    """The most frequent foreground class of each voxel over the training labels, centres aligned.

    Args:
        train_labels: class indices, one array a case, in the prepared space (one spacing). A case
            does not count where nobody annotated it.
        classes: number of classes, background (0) included.
        shape: size of the answer.

    Returns:
        The class where it occurs in more than THRESHOLD of the cases, else 0; ties go to the
        lower class.

    Raises:
        DataError: there is no training label.
    """
    if not train_labels:
        raise DataError("the location prior needs at least one labelled training case.")
    counts = np.zeros((classes, *shape), np.uint16)
    ignored = np.zeros(shape, np.uint16)
    for label in train_labels:
        placed = centred(label, shape)
        ignored += placed == IGNORED
        for cls in range(1, classes):
            counts[cls] += placed == cls
    best = counts[1:].argmax(0) + 1
    often = counts[1:].max(0) > THRESHOLD * (len(train_labels) - ignored)
    return np.where(often, best, 0).astype(np.uint8)


def prior_dice(
    prior: UInt8[np.ndarray, "d h w"], test_labels: Sequence[Label], classes: int
) -> Float64[np.ndarray, "case foreground"]:
    """Dice of the prior laid centre on centre over each test label; nan where a class is absent."""
    scores = np.empty((len(test_labels), classes - 1))
    for row, truth in zip(scores, test_labels, strict=True):
        guess = np.where(truth == IGNORED, 0, centred(prior, truth.shape))
        row[:] = [dice(guess == cls, truth == cls) for cls in range(1, classes)]
    return scores


def location_floor(
    train: Mapping[str, Sequence[Label]],
    test: Mapping[str, Sequence[Label]],
    classes: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Mean Dice of the location prior by modality and class name (nan: in no test case).

    Each modality has its own prior, as large as its largest training case on every axis.

    Args:
        train, test: modality -> labels in the prepared space; modalities without a label on
            either side are left out.
        classes: names, background first.
    """
    floor = {}
    for modality, labels in train.items():
        truths = test.get(modality, ())
        if not labels or not truths:
            continue
        d, h, w = (max(sizes) for sizes in zip(*(label.shape for label in labels), strict=True))
        scores = prior_dice(location_prior(labels, len(classes), (d, h, w)), truths, len(classes))
        means = (row[~np.isnan(row)] for row in scores.T)
        floor[modality] = {
            name: float(known.mean()) if known.size else float("nan")
            for name, known in zip(classes[1:], means, strict=True)
        }
    return floor


def run_floor(run: RunFolder) -> dict[str, dict[str, float]]:
    """`location_floor` of a run's test cases.

    Raises:
        DataError: the prepared cases are gone.
    """
    labels = []
    for part in ("train", "test"):
        ids = run.split.part(part)
        maps = {
            m: [_whole(case) for case in known.values() if case.id in ids.get(m, ())]
            for m, known in run.prepared.items()
        }
        labels.append({m: [one for one in found if one is not None] for m, found in maps.items()})
    return location_floor(labels[0], labels[1], run.data.classes)


def _whole(case: PreparedCase) -> np.ndarray | None:
    """The label, once it is known to be as it was written."""
    case.verify()
    return case.label()
