"""A manifest line by line: what is wrong with a line is listed, the other lines are cases."""

from pathlib import Path

from unpaired.data.checks.finding import Finding, Remark, from_error
from unpaired.data.paths import shown
from unpaired.datasets.dataset import Case, Dataset
from unpaired.datasets.dataset_json import channels_of, labels_of, read_about
from unpaired.datasets.manifest import Row, is_image, place, read_rows
from unpaired.datasets.nnunet import check_ids
from unpaired.errors import DataError


def salvage(modality: str, path: Path, found: list[Finding]) -> Dataset:
    """The scans of one modality that a manifest names rightly; faults are added to `found`.

    Raises:
        DataError: it cannot be read as a table.
    """
    rows = [row for row in read_rows(path) if row["modality"] == modality]
    channels, labels = _about(modality, path, found)
    cases: dict[str, Case] = {}
    for row in rows:
        faults = _faults(row, path, len(channels), cases)
        found += [fault.about(modality, row["case"], path) for fault in faults]
        if not faults:
            truth = path.parent / row["label"] if row["label"] else None
            images = tuple(_images(row, path))
            held_out = row["split"] == "test" or truth is None
            patient = row["patient"] or row["case"]
            cases[row["case"]] = Case(row["case"], modality, images, truth, patient, held_out)
    ordered = sorted(cases.values(), key=lambda case: (case.held_out, case.id))
    return Dataset(modality, path.parent, channels, labels, tuple(ordered))


def _about(
    modality: str, path: Path, found: list[Finding]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Channels and labels; where the JSON file is at fault, one channel without a name."""
    file = path.with_suffix(".json")
    try:
        about = read_about(file)
        own = about.get(modality, about)
        own = {"channel_names": {"0": modality}, **(own if isinstance(own, dict) else {})}
        return channels_of(own, file), labels_of(own, file)
    except DataError as error:
        found.append(from_error(error, modality, "", file, "dataset-json"))
        return ("",), {}


def _faults(row: Row, path: Path, channels: int, known: dict[str, Case]) -> list[Remark]:
    faults = []
    try:
        check_ids([row["case"]], path)
    except DataError:
        what = f"the case's name {shown(row['case'])} is no safe file name"
        faults.append(Remark("case-name", "error", what, "rename the case", "1 case"))
    twin = next((name for name in known if name.casefold() == row["case"].casefold()), None)
    if twin is not None:
        what = f"the case's name is that of {shown(twin)}, but for upper and lower case"
        if twin == row["case"]:
            what = f"another line has the case {shown(twin)} already"
        faults.append(Remark("case-name", "error", what, "rename one of them", "2 cases"))
    images = _images(row, path)
    if len(images) != channels:
        what = f"it has {len(images)} images for {channels} channels"
        amount = f"{len(images)} of {channels} channels"
        faults.append(Remark("channels", "error", what, "separate several by |", amount))
    for file in (*images, *([path.parent / row["label"]] if row["label"] else [])):
        if not is_image(file):
            what = f"it names {shown(file)}, which is not there"
            faults.append(Remark("no-file", "error", what, "correct the line", "1 file"))
    if row["split"] in ("train", "val") and not row["label"]:
        what = f"it is for {row['split']} but has no label"
        faults.append(Remark("no-label", "error", what, "add the label", "1 case"))
    return faults


def _images(row: Row, path: Path) -> list[Path]:
    return [place(path, cell) for cell in row["image"].split("|")]
