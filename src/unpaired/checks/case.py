"""What is wrong with one scan: its files, its grid, its intensities, its label."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from time import perf_counter

import nibabel as nib
import numpy as np

from unpaired.checks import intensity, labels
from unpaired.checks import labels as body
from unpaired.checks.cohort import Facts
from unpaired.checks.finding import Finding, Remark, read
from unpaired.checks.intensity import count_values, digest
from unpaired.datasets.dataset import Case, Dataset
from unpaired.io.read import read_image, read_label_image
from unpaired.io.volume import SAME_GRID_MM, Volume, canonical_orientation, same_grid
from unpaired.names import canonical_name

# Where the voxels lie: channels and label on one grid, voxels of a usual shape.


EXTREME_ANISOTROPY = 8.0


def same_place(image: Volume, other: Volume, kind: str) -> Iterator[Remark]:
    """A label or channel that lies elsewhere than the first image.

    Args:
        kind: "label" or "channel".
    """
    offset = same_grid(image, other)
    if offset <= SAME_GRID_MM:
        return
    if not np.isinf(offset):
        what = f"the {kind} lies up to {offset:.3g} mm off the image's grid"
        mend = f"resample the {kind} onto the image"
        if offset < 0.1 * min(image.spacing_mm):
            mend = "`unpaired check --fix-headers OUT` writes it with the image's geometry"
        yield Remark(f"{kind}-grid", "error", what, mend, f"{offset:.3g} mm")
        return
    sizes = [" x ".join(map(str, volume.array.shape)) for volume in (image, other)]
    what = f"the {kind} has {sizes[1]} voxels, the image {sizes[0]}"
    mend = f"resample the {kind} onto the image"
    yield Remark(f"{kind}-shape", "error", what, mend, f"{sizes[1]} voxels")


def voxel_shape(image: Volume) -> Iterator[Remark]:
    """Voxels that are very long, volumes of a single slice."""
    spacing = image.spacing_mm
    if max(spacing) > EXTREME_ANISOTROPY * min(spacing):
        text = " x ".join(f"{s:.3g}" for s in spacing)
        what = f"voxels are very long ({text} mm)"
        yield Remark("anisotropy", "note", what, "nothing; slices are learnt one by one, or crop")
    if 1 in image.array.shape:
        what = f"the volume has one slice ({' x '.join(map(str, image.array.shape))} voxels)"
        yield Remark("one-slice", "note", what, "nothing if it is meant so; else stack the slices")


# Left and right against the anatomy: the liver lies right, the spleen left, kidneys beside them.
#
# Everything is measured in patient millimetres, from the affine: x grows to the patient's right.


# Between two organs of a pair, and between one organ and the middle of the scan, which is known
# only roughly: nearer than this nothing is said.
PAIR_MM, MIDDLE_MM = 10.0, 25.0
_RIGHT, _LEFT = 1.0, -1.0
_ALONE = {"liver": _RIGHT, "spleen": _LEFT, "right kidney": _RIGHT, "left kidney": _LEFT}
# The heart's chambers are named by the blood they carry and lie before each other.
_HEART = ("atri", "ventric", "heart", "coronary", "pulmonary", "auric", "myocard")


def wrong_sides(label: Volume, labels: Mapping[str, int], image: Volume | None = None) -> list[str]:
    """Where organs lie on the wrong side of the body: one sentence each, nothing if all is well.

    Args:
        label: integers [i j k].
        labels: class name -> value.
        image: the scan, to find the body's middle; without it only pairs are compared.
    """
    names = {canonical_name(name): value for name, value in labels.items() if value != 0}
    x = _centres(label, {name: names[name] for name in names if _sided(name, names)})
    wrong, right = [], []
    for low, high in _pairs(x):
        gap = x[high] - x[low]
        if gap < -PAIR_MM:
            wrong.append(f"the {low} lies {-gap:.0f} mm to the right of the {high}")
        elif gap > PAIR_MM:
            right.append(f"the {low} lies left of the {high}")
    alone = {n: x[n] for n in _ALONE if n in x and not any(n in pair for pair in _pairs(x))}
    if alone and image is not None:
        middle = _middle(image)
        for name, at in alone.items():
            off = (at - middle) * _ALONE[name]
            if off < -MIDDLE_MM:
                side = "left" if _ALONE[name] == _RIGHT else "right"
                wrong.append(f"the {name} lies {-off:.0f} mm {side} of the body's middle")
            elif off > MIDDLE_MM:
                right.append(f"the {name} lies on its side")
    return [_sentence(wrong, right)] if wrong else []


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
    return name in _ALONE or any(name in pair for pair in _pairs(names))


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


# Left and right against the anatomy, as findings.


_MEND = "compare with the scan in a viewer; swap the labels, or mirror what is mirrored"


def sides(image: Volume, label: Volume, labels: Mapping[str, int]) -> Iterator[Remark]:
    """Organs on the wrong side. A left organ right of its right twin is wrong in everybody; a liver
    on the left may be a rare patient."""
    found = wrong_sides(label, labels, image)
    if not found:
        return
    twins = {
        name: value
        for name, value in labels.items()
        if re.search(r"\b(left|right)\b", canonical_name(name))
    }
    certain = bool(twins) and bool(wrong_sides(label, twins))
    for what in found:
        match = re.search(r"(\d+) mm", what)
        amount = f"{match[1]} mm" if match else ""
        yield Remark("sides", "error" if certain else "warning", what, _MEND, amount)


def inspect(case: Case, dataset: Dataset) -> tuple[Facts, list[Finding]]:
    """Read every file of one scan once; faults become findings, never exceptions.

    The label and one channel are held at a time.
    """
    facts = Facts(case.modality, case.id, case.patient, case.held_out)
    found: list[Finding] = []
    try:
        return _inspect(case, dataset, facts, found)
    except MemoryError:
        what, mend = "memory ran out while it was checked", "use fewer workers, or crop the image"
        found.append(Remark("memory", "error", what, mend).of(case, None))
    except Exception as error:  # a fault of the program must not hide the other cases
        what = f"the check itself failed ({type(error).__name__}: {error})"
        mend = "please report this as a fault of the program"
        found.append(Remark("fault", "error", what, mend).of(case, case.images[0]))
    return facts, found


def _inspect(
    case: Case, dataset: Dataset, facts: Facts, found: list[Finding]
) -> tuple[Facts, list[Finding]]:
    began = perf_counter()
    label = read(case, case.label, read_label_image, found) if case.label else None
    spent = perf_counter() - began
    if label is not None:
        facts = _label_facts(facts, label)
        found += [r.of(case, label.path) for r in _label_alone(label, facts, dataset)]
    first: Volume | None = None
    for number, path in enumerate(case.images):
        began = perf_counter()
        image = read(case, path, read_image, found)
        spent += perf_counter() - began
        if image is None:
            continue
        name = dataset.channel_names[number] if number < len(dataset.channel_names) else ""
        found += [r.of(case, path) for r in intensity.intensities(image, name)]
        if first is not None:
            found += [r.of(case, path) for r in same_place(first, image, "channel")]
        else:
            facts = _image_facts(facts, image)
            found += [r.of(case, path) for r in voxel_shape(image)]
            if label is not None:
                found += [r.of(case, label.path) for r in _pair(image, label, dataset)]
        facts = replace(
            facts,
            digests=(*facts.digests, (digest(image), path)),
            stored=(*facts.stored, (_stored(image), path)),
        )
        # Of the first channel only the grid is needed from here on.
        empty = np.broadcast_to(np.uint8(0), image.array.shape)
        first = first or replace(image, array=empty)
        del image
    return replace(facts, seconds=spent), found


def _pair(image: Volume, label: Volume, dataset: Dataset) -> Iterator[Remark]:
    apart = list(same_place(image, label, "label"))
    yield from apart
    if not apart:
        yield from sides(image, label, dataset.labels)
        yield from body.outside_body(image, label, dataset.labels)


def _label_alone(label: Volume, facts: Facts, dataset: Dataset) -> Iterator[Remark]:
    counts = facts.voxels or {}
    yield from labels.values(label, counts, dataset.labels)
    yield from labels.fragments(label, dataset.labels, counts)


def _label_facts(facts: Facts, label: Volume) -> Facts:
    counts = count_values(label.array)
    return replace(
        facts,
        label=label.path,
        voxels=counts,
        label_digest=digest(label) if set(counts) - {0} else "",
        touches=labels.touches(label),
    )


def _image_facts(facts: Facts, image: Volume) -> Facts:
    turn = canonical_orientation(image.affine)
    a, b, c = (image.array.shape[axis] for axis in turn.axes)
    return replace(
        facts,
        spacing_mm=turn.spacing(image.spacing_mm),
        shape=(a, b, c),
        axes="".join(nib.aff2axcodes(image.affine)),
    )


def _stored(image: Volume) -> str:
    """The type in the file, where it is known."""
    dtype = image.array.dtype if image.header is None else image.header.get_data_dtype()
    return np.dtype(dtype).newbyteorder("=").name
