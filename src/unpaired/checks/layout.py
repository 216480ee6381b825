"""Opening a data set for the check: what is at fault in its layout is listed, the rest opened."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unpaired.checks.finding import Finding, Remark, from_error
from unpaired.datasets import decathlon, manifest, nnunet
from unpaired.datasets.dataset import Case, Dataset
from unpaired.datasets.dataset_json import (
    LabelNames,
    channels_of,
    check_ending,
    label_names,
    patients_of,
    read_about,
)
from unpaired.datasets.manifest import Row, is_image, place, read_rows
from unpaired.datasets.nnunet import check_ids
from unpaired.datasets.passed_over import (
    FOLDERS,
    miscounted,
    passed_over,
    passed_over_sentence,
)
from unpaired.datasets.sources import open_dataset
from unpaired.errors import DataError, UnpairedError
from unpaired.names import plural, printable, some

_TRAIN, _TEST = "Tr", "Ts"
Parts = dict[str, dict[int, Path]]


def open_leniently(modality: str, root: Path) -> tuple[Dataset | None, list[Finding]]:
    """The data set as far as it can be opened, and everything wrong with its layout.

    Raises:
        DataError: there is nothing at `root`.
    """
    try:
        nnunet.need_folder(root) if not root.is_file() else None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot open {printable(root)}: {error}.") from error
    try:
        opened = open_dataset(modality, root)
        return opened, [*hidden(modality, root), *leftover(modality, opened)]
    except UnpairedError as error:
        first = from_error(error, modality, "", root, "layout")
    findings: list[Finding] = []
    try:
        if manifest.looks_like(root):
            dataset = salvage(modality, root, findings)
        elif decathlon.looks_like(root):
            dataset, missing = decathlon.open_present(modality, root)
            for case, name in missing.items():
                what = f"dataset.json names {printable(name)}, which is not in that folder"
                mend = "correct the entry or add the file"
                remark = Remark("no-file", "error", what, mend, "1 file")
                findings.append(remark.about(modality, case, root / "dataset.json"))
        elif (root / "imagesTr").is_dir():
            dataset = _Salvage(modality, root, findings).dataset()
        else:
            return None, [first]
    except (DataError, OSError):
        return None, [first]
    kept = dataset if dataset.cases else None
    return kept, [*(findings or [first]), *hidden(modality, root)]


def hidden(modality: str, root: Path) -> Iterator[Finding]:
    """Files of the operating system between the images, such as ._a.nii.gz and .DS_Store."""
    found: list[str] = []
    for folder in FOLDERS:
        try:
            found += [child.name for child in (root / folder).iterdir() if child.name[0] == "."]
        except OSError:
            continue
    if found:
        what = f"{len(found)} hidden files are passed over ({some(sorted(found), 3)})"
        mend = "nothing; delete them if you like"
        yield Remark("hidden", "note", what, mend, f"{len(found)} files").about(modality, file=root)


def leftover(modality: str, dataset: Dataset) -> Iterator[Finding]:
    """Files that belong to no case, and another number of cases than dataset.json says."""
    if left := passed_over(dataset):
        what, mend = passed_over_sentence(left), "name them as cases, or remove them"
        amount = plural(len(left), "file")
        yield Remark("passed-over", "warning", what, mend, amount).about(modality, file=left[0])
    for what, amount in miscounted(dataset):
        mend = "look for the missing ones, or correct dataset.json"
        yield Remark("case-count", "warning", what, mend, amount).about(
            modality, file=dataset.root / "dataset.json"
        )


def salvage(modality: str, path: Path, findings: list[Finding]) -> Dataset:
    """The scans of one modality that a manifest names rightly; faults are added to `findings`.

    Raises:
        DataError: it cannot be read as a table.
    """
    rows = [row for row in read_rows(path) if row["modality"] == modality]
    channels, names = _about(modality, path, findings)
    cases: dict[str, Case] = {}
    for row in rows:
        faults = _faults(row, path, len(channels), cases)
        findings += [fault.about(modality, row["case"], path) for fault in faults]
        if not faults:
            truth = path.parent / row["label"] if row["label"] else None
            images = tuple(_images(row, path))
            held_out = row["split"] == "test" or truth is None
            patient = row["patient"] or row["case"]
            cases[row["case"]] = Case(row["case"], modality, images, truth, patient, held_out)
    ordered = sorted(cases.values(), key=lambda case: (case.held_out, case.id))
    known, ignore = tuple(ordered), names.ignore
    return Dataset(modality, path.parent, channels, names.classes, known, ignore=ignore)


def _about(
    modality: str, path: Path, findings: list[Finding]
) -> tuple[tuple[str, ...], LabelNames]:
    """Channels and labels; where the JSON file is at fault, one channel without a name."""
    file = path.with_suffix(".json")
    try:
        about = read_about(file)
        own = about.get(modality, about)
        own = {"channel_names": {"0": modality}, **(own if isinstance(own, dict) else {})}
        return channels_of(own, file), label_names(own, file)
    except DataError as error:
        findings.append(from_error(error, modality, "", file, "dataset-json"))
        return ("",), LabelNames({})


def _faults(row: Row, path: Path, channels: int, known: dict[str, Case]) -> list[Remark]:
    faults = []
    try:
        check_ids([row["case"]], path)
    except DataError:
        what = f"the case's name {printable(row['case'])} is no safe file name"
        faults.append(Remark("case-name", "error", what, "rename the case", "1 case"))
    twin = next((name for name in known if name.casefold() == row["case"].casefold()), None)
    if twin is not None:
        what = f"the case's name is that of {printable(twin)}, but for upper and lower case"
        if twin == row["case"]:
            what = f"another line has the case {printable(twin)} already"
        faults.append(Remark("case-name", "error", what, "rename one of them", "2 cases"))
    images = _images(row, path)
    if len(images) != channels:
        what = f"it has {len(images)} images for {channels} channels"
        amount = f"{len(images)} of {channels} channels"
        faults.append(Remark("channels", "error", what, "separate several by |", amount))
    for file in (*images, *([path.parent / row["label"]] if row["label"] else [])):
        if not is_image(file):
            what = f"it names {printable(file)}, which is not there"
            faults.append(Remark("no-file", "error", what, "correct the line", "1 file"))
    if row["split"] in ("train", "val") and not row["label"]:
        what = f"it is for {row['split']} but has no label"
        faults.append(Remark("no-label", "error", what, "add the label", "1 case"))
    return faults


def _images(row: Row, path: Path) -> list[Path]:
    return [place(path, cell) for cell in row["image"].split("|")]


@dataclass
class _Salvage:
    """One nnU-Net folder, case by case; faults are added to `findings`."""

    modality: str
    root: Path
    findings: list[Finding]

    def dataset(self) -> Dataset:
        channels, labels, patients = self._about()
        train, test = self._images(_TRAIN), self._images(_TEST)
        count = len(channels) or 1 + max((n for p in train.values() for n in p), default=0)
        truth, more = self._files("labels", _TRAIN), self._files("labels", _TEST)
        self._names([*train, *test])
        for case in sorted(set(train) & set(test)):
            self._say("twice", case, "it is in imagesTr and in imagesTs", "remove one", "2 cases")
        self._pairs(train, truth)
        cases = [
            Case(i, self.modality, tuple(images[n] for n in sorted(images)), known.get(i),
                 patients.get(i, i), held_out)
            for parts, known, held_out in ((train, truth, False), (test, more, True))
            for i, images in sorted(parts.items())
            if self._has_all_channels(i, images, count)
        ]  # fmt: skip
        names = channels or ("",) * count
        known, ignore = tuple(cases), labels.ignore
        return Dataset(self.modality, self.root, names, labels.classes, known, ignore=ignore)

    def _about(self) -> tuple[tuple[str, ...], LabelNames, dict[str, str]]:
        """Channels, labels and patients; empty where dataset.json does not say them."""
        file = self.root / "dataset.json"
        about: dict[str, Any] = {}
        channels: tuple[str, ...] = ()
        labels = LabelNames({})
        patients: dict[str, str] = {}
        try:
            about = read_about(file)
        except DataError as error:
            self._error(error, file)
            return channels, labels, patients
        try:
            check_ending(about, nnunet.ENDINGS, file)
        except DataError as error:
            self._error(error, file)
        try:
            channels = channels_of(about, file)
        except DataError as error:
            self._error(error, file)
        try:
            labels = label_names(about, file)
        except DataError as error:
            self._error(error, file)
        try:
            patients = patients_of(about, file)
        except DataError as error:
            self._error(error, file)
        return channels, labels, patients

    def _files(self, kind: str, part: str) -> dict[str, Path]:
        """Name without ending -> file; of twins (a.nii beside a.nii.gz) the compressed one."""
        folder = self.root / f"{kind}{part}"
        files: dict[str, Path] = {}
        if not folder.is_dir():
            return files
        for child in sorted(folder.iterdir()):
            stem = nnunet.stem_of(child)
            if stem is None:
                continue
            if stem in files:
                what = f"{printable(files[stem].name)} lies beside {printable(child.name)}"
                case = re.sub(r"_\d{4}$", "", stem)
                self._say("twins", case, what, "remove one of them", "2 files", child)
            files[stem] = child
        return files

    def _images(self, part: str) -> Parts:
        parts: Parts = defaultdict(dict)
        for stem, file in self._files("images", part).items():
            match = re.fullmatch(r"(.+)_(\d{4})", stem, re.DOTALL)
            if match is None:
                what = "the name does not end in the channel's number"
                mend = (
                    f"rename it to {printable(stem)}_0000{printable(file.name.removeprefix(stem))}"
                )
                self._say("channel-name", printable(stem), what, mend, "1 file", file)
            else:
                parts[match[1]][int(match[2])] = file
        return parts

    def _has_all_channels(self, case: str, images: Mapping[int, Path], count: int) -> bool:
        if sorted(images) == list(range(count)):
            return True
        have = ", ".join(f"{n:04d}" for n in sorted(images))
        what = f"it has the channels {have} of 0000 to {count - 1:04d}"
        file = next(iter(images.values()))
        amount = f"{len(images)} of {count} channels"
        self._say("channels", case, what, "add or remove files", amount, file)
        return False

    def _names(self, ids: list[str]) -> None:
        seen: dict[str, str] = {}
        for case in sorted(set(ids)):
            try:
                nnunet.check_ids([case], self.root)
            except DataError:
                what = "the case's name is reserved or no safe file name"
                self._say("case-name", case, what, "rename its files", "1 case")
            other = seen.setdefault(case.casefold(), case)
            if other != case:
                what = (
                    f"the case's name differs from {printable(other)} by upper and lower case only"
                )
                self._say("case-name", case, what, "rename one of them", "2 cases")

    def _pairs(self, images: Parts, labels: dict[str, Path]) -> None:
        for case in sorted(set(images) - set(labels)):
            file = next(iter(images[case].values()))
            mend = "add labelsTr/<case>.nii.gz, or move the image to imagesTs"
            self._say("no-label", case, "there is no label in labelsTr", mend, "1 case", file)
        for case in sorted(set(labels) - set(images)):
            mend = "add imagesTr/<case>_0000.nii.gz, or remove the label"
            what = "there is no image in imagesTr"
            self._say("no-image", case, what, mend, "1 case", labels[case])

    def _say(
        self, kind: str, case: str, what: str, mend: str, amount: str, file: Path | None = None
    ) -> None:
        remark = Remark(kind, "error", what, mend, amount)
        self.findings.append(remark.about(self.modality, case, file or self.root))

    def _error(self, error: DataError, file: Path) -> None:
        self.findings.append(from_error(error, self.modality, "", file, "dataset-json"))
