"""Left and right against the anatomy: the liver lies right, the spleen left, kidneys beside them.

Everything is measured in patient millimetres, from the affine: x grows to the patient's right.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from unpaired.io.volume import Volume
from unpaired.names import canonical_name

# Between two organs of a pair, and between one organ and the middle of the scan, which is known
# only roughly: nearer than this nothing is said.
PAIR_MM, MIDDLE_MM = 10.0, 25.0
_RIGHT, _LEFT = 1.0, -1.0
_USUAL_SIDE = {"liver": _RIGHT, "spleen": _LEFT, "right kidney": _RIGHT, "left kidney": _LEFT}
# The heart's chambers are named by the blood they carry and lie before each other.
_HEART = ("atri", "ventric", "heart", "coronary", "pulmonary", "auric", "myocard")


class WrongSides(NamedTuple):
    """Organs on the wrong side: how far the first one lies off, and a sentence on all."""

    off_mm: float
    sentence: str


def wrong_sides(
    label: Volume, labels: Mapping[str, int], image: Volume | None = None
) -> WrongSides | None:
    """Which organs lie on the wrong side of the body; None if all is well.

    Args:
        label: integers [i j k].
        labels: class name -> value.
        image: the scan, to find the body's middle; without it only pairs are compared.
    """
    names = {canonical_name(name): value for name, value in labels.items() if value != 0}
    x = _centres(label, {name: names[name] for name in names if _sided(name, names)})
    wrong: list[WrongSides] = []
    right: list[str] = []
    for low, high in _pairs(x):
        gap = x[high] - x[low]
        if gap < -PAIR_MM:
            what = f"the {low} lies {-gap:.0f} mm to the right of the {high}"
            wrong.append(WrongSides(-gap, what))
        elif gap > PAIR_MM:
            right.append(f"the {low} lies left of the {high}")
    single = {n: x[n] for n in _USUAL_SIDE if n in x and not any(n in pair for pair in _pairs(x))}
    if single and image is not None:
        middle = _middle(image)
        for name, at in single.items():
            off = (at - middle) * _USUAL_SIDE[name]
            if off < -MIDDLE_MM:
                side = "left" if _USUAL_SIDE[name] == _RIGHT else "right"
                what = f"the {name} lies {-off:.0f} mm {side} of the body's middle"
                wrong.append(WrongSides(-off, what))
            elif off > MIDDLE_MM:
                right.append(f"the {name} lies on its side")
    if not wrong:
        return None
    return WrongSides(wrong[0].off_mm, _sentence([one.sentence for one in wrong], right))


def _sentence(wrong: list[str], right: list[str]) -> str:
    if right:
        return (
            f"{'; '.join(wrong)}, though {' and '.join(right)}: the labels of left and right are "
            "swapped"
        )
    return (
        f"{'; '.join(wrong)}: the scan or its label is mirrored, or the labels of left and right "
        "are swapped"
    )


def _sided(name: str, names: Mapping[str, int]) -> bool:
    return name in _USUAL_SIDE or any(name in pair for pair in _pairs(names))


def _pairs(names: Mapping[str, object]) -> list[tuple[str, str]]:
    """(what lies left, what lies right) of the names that are there."""
    pairs = [("spleen", "liver")] if {"spleen", "liver"} <= set(names) else []
    for name in names:
        other = name.replace("left", "right", 1)
        if name.startswith("left ") and other in names and not any(h in name for h in _HEART):
            pairs.append((name, other))
    return pairs


def _centres(label: Volume, names: Mapping[str, int]) -> dict[str, float]:
    """Name -> x of the centre in millimetres (patient's right positive), for organs that occur."""
    if not names:
        return {}
    where = np.nonzero(np.isin(label.array, list(names.values())))
    values = label.array[where].astype(np.int64)
    row = label.affine[0]
    x = sum(row[axis] * index for axis, index in enumerate(where)) + row[3]
    count = np.bincount(values) if values.size else np.zeros(1)
    total = np.bincount(values, weights=x) if values.size else np.zeros(1)
    return {
        name: float(total[value] / count[value])
        for name, value in names.items()
        if value < len(count) and count[value]
    }


def _middle(image: Volume) -> float:
    """x of the body's middle: of what is brighter than the mean, which air never is."""
    steps = tuple(slice(None, None, max(1, n // 64)) for n in image.array.shape)
    array = image.array[steps]
    bright = np.nonzero(array > array.mean(dtype=np.float64))
    row = image.affine[0]
    if not bright[0].size:
        centre = [(n - 1) / 2 for n in image.array.shape]
        return float(row[:3] @ np.array(centre) + row[3])
    x = sum(row[axis] * index * steps[axis].step for axis, index in enumerate(bright)) + row[3]
    return float((np.percentile(x, 2) + np.percentile(x, 98)) / 2)
