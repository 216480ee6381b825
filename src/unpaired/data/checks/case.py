"""What is wrong with one scan: its files, its grid, its intensities, its label."""

from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter

import nibabel as nib
import numpy as np

from unpaired.data.checks import body, grids, intensity, labels, side
from unpaired.data.checks.content import count_values, digest
from unpaired.data.checks.facts import Facts
from unpaired.data.checks.finding import Finding, Remark
from unpaired.data.checks.reading import read
from unpaired.datasets.dataset import Case, Dataset
from unpaired.io.read import read_image, read_label_image
from unpaired.io.volume import Volume, canonical_orientation


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
            found += [r.of(case, path) for r in grids.same_place(first, image, "channel")]
        else:
            facts = _image_facts(facts, image)
            found += [r.of(case, path) for r in grids.voxel_shape(image)]
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
    apart = list(grids.same_place(image, label, "label"))
    yield from apart
    if not apart:
        yield from side.sides(image, label, dataset.labels)
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
