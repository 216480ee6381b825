"""The questions that nnU-Net's `verify_dataset_integrity` asks, asked anew with SimpleITK.

Written from its behaviour (nnU-Net, commit 017de4a, with its SimpleITK reader): counts, labels
present, values known, NaN, shapes, spacings; origins and directions are warned of. Prints one line.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import SimpleITK


class StopError(Exception):
    """What ends the whole check."""


def read(files: list[Path]) -> tuple[np.ndarray, list, list[tuple]]:
    """Channels float32 [c d h w], spacing, (origin, direction) of each file."""
    arrays, spacings, places = [], [], []
    for file in files:
        image = SimpleITK.ReadImage(str(file))
        array = SimpleITK.GetArrayFromImage(image)
        spacing = [abs(s) for s in reversed(image.GetSpacing())]
        spacings.append(
            {2: [999 * max(spacing), *spacing], 4: spacing[1:]}.get(array.ndim, spacing)
        )
        if array.ndim not in (2, 3, 4):
            raise StopError(f"stops: {array.ndim} axes")
        arrays.append({2: array[None, None], 3: array[None], 4: array}.get(array.ndim, array))
        places.append((image.GetOrigin(), image.GetDirection()))
    if len({a.shape for a in arrays}) > 1 or any(s != spacings[0] for s in spacings):
        raise StopError("stops: channels of different shape or spacing")
    with np.errstate(all="ignore"):
        return np.vstack(arrays).astype(np.float32), spacings[0], places


def ask(root: Path) -> str:
    """The worst it says of a data set."""
    about = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    images: dict[str, list[Path]] = {}
    for file in sorted((root / "imagesTr").iterdir()):
        if file.is_file() and file.name.endswith(".nii.gz"):
            images.setdefault(file.name[:-12], []).append(file)
    truth = [f.name[:-7] for f in (root / "labelsTr").iterdir() if f.name.endswith(".nii.gz")]
    # The tests' dataset.json leaves numTraining out: what the author of the folder meant.
    if len(images) != about.get("numTraining", max(len(images), len(truth))) or not images:
        raise StopError("stops: another number of cases than numTraining")
    missing = sorted(set(images) - set(truth))
    if missing:
        raise StopError("stops: lists the cases without a label")
    if "background" not in about["labels"]:
        raise StopError("stops: no background is declared")
    known = sorted({int(value) for value in about["labels"].values()})
    if any(np.ediff1d(known) != 1):
        raise StopError("stops: labels must be consecutive")
    said = []
    for case, files in images.items():
        label, spacing_label, places_label = read([root / "labelsTr" / f"{case}.nii.gz"])
        if set(np.unique(label)) - set(known):
            said.append("error: unexpected labels")
        array, spacing, places = read(files)
        said += compare(array, label, spacing, spacing_label)
        if len(array) != len(about["channel_names"]):
            said.append("error: number of channels")
        if not np.allclose(places[0][0], places_label[0][0]):
            said.append("warning: origins differ")
        elif not np.allclose(places[0][1], places_label[0][1]):
            said.append("warning: directions differ")
    return min(said, default="passes")


def compare(array: np.ndarray, label: np.ndarray, spacing: list, spacing_label: list) -> list[str]:
    said = []
    if np.isnan(array).any() or np.isnan(label).any():
        said.append("error: NaN")
    if array.shape[1:] != label.shape[1:]:
        said.append("error: shapes differ")
    if not np.allclose(spacing, spacing_label):
        said.append("error: spacings differ")
    return said


def main() -> None:
    try:
        said = ask(Path(sys.argv[1]))
    except StopError as error:
        said = str(error)
    except Exception as error:
        reader = re.search(r"ITK|sitk|Unable", str(error)) is not None
        said = "stops: the reader's error" if reader else f"stops: {type(error).__name__}"
    print("SAID", said)


if __name__ == "__main__":
    main()
