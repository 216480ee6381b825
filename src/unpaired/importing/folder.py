"""The folder of one modality: what is already whole, moving cases into place, provenance.json."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unpaired import __version__
from unpaired.datasets.archive import ArchiveCase, ArchiveSet
from unpaired.datasets.split_file import Split, write_splits
from unpaired.errors import UsageError
from unpaired.files import cannot_write, make_folder, printable, put, read_json, write_json
from unpaired.importing.write import ENDING, digest, named

RECORD, SPLITS = "provenance.json", "splits_final.json"
WORK = ".importing"
"""In the folder of a modality while an import goes."""


@dataclass(frozen=True)
class Place:
    """What another process needs to stage a case."""

    work: Path
    labels: Mapping[str, int]

    def fresh(self, case: str) -> Path:
        """An empty folder for the files of a case."""
        stage = self.work / case
        shutil.rmtree(stage, ignore_errors=True)
        try:
            stage.mkdir(parents=True)
        except OSError as error:
            raise cannot_write(stage, error) from error
        return stage


class SetFolder:
    """One modality on disk. `records` holds what is whole, by case id."""

    def __init__(self, root: Path, settings: Mapping[str, Any], contents: ArchiveSet) -> None:
        self.root, self.contents = root, contents
        labels = dict(sorted(contents.labels.items(), key=lambda item: item[1]))
        self.settings = {**settings, "channels": list(contents.channel_names), "labels": labels}
        self.records: dict[str, dict[str, Any]] = {}
        self._work = root / WORK

    def claim(self) -> None:
        """Make the folder this import's, or go on in it.

        Raises:
            UsageError: it holds something else, or an import of other settings.
        """
        record = self.root / RECORD
        if record.exists():
            before = read_json(record)
            if not isinstance(before, dict) or before.get("settings") != self.settings:
                raise UsageError(
                    f"{printable(self.root)} holds an import of other settings (see {RECORD}). "
                    "Choose another folder, or remove this one."
                )
            self.records = dict(before["cases"])
        elif self.root.is_dir() and any(self.root.iterdir()) and not self._work.is_dir():
            raise UsageError(
                f"{printable(self.root)} is not empty and no import of ours. Choose another folder."
            )
        try:
            make_folder(self._work)
        except OSError as error:
            raise cannot_write(self._work, error) from error
        for file in sorted(self._work.glob("*.json")):
            if not file.name.startswith("."):
                self.records[file.stem] = read_json(file)

    def place(self) -> Place:
        """What a process that stages cases needs."""
        return Place(self._work, dict(self.contents.labels))

    def missing(self, archive: Path) -> list[ArchiveCase]:
        """The cases that are not yet whole: files changed since, originals changed, or new."""
        todo = []
        for case in self.contents.cases:
            record = self.records.get(case.id)
            if record is None or not self._is_complete(case, record, archive):
                self.drop(case.id)
                todo.append(case)
        return todo

    def _is_complete(self, case: ArchiveCase, record: Mapping[str, Any], archive: Path) -> bool:
        same = (record["patient"], record["part"], record["held_out"]) == (
            case.patient,
            case.part,
            case.held_out,
        )
        originals = [path for image in case.images for path in image.files]
        originals += [] if case.label is None else case.label.files
        now = {named(path, archive): path.stat().st_size for path in originals}
        before = {
            name: original["bytes"]
            for about in record["files"].values()
            for name, original in about["from"].items()
        }
        return same and now == before and still_complete(self.root, record["files"])

    def commit(self, case: str, record: dict[str, Any]) -> None:
        """Move a staged case into place; its record is written last and makes it whole."""
        try:
            for name, about in record["files"].items():
                path = _at(self.root, name, about)
                make_folder(path.parent)
                put(self._work / case / name, path)
            (self._work / case).rmdir()
        except BaseException as error:  # an interruption, too, must not leave half a case
            self.drop(case)
            if isinstance(error, OSError):
                raise cannot_write(self.root, error) from error
            raise
        write_json(self._work / f"{case}.json", record)
        self.records[case] = record

    def drop(self, case: str) -> None:
        """Remove what an earlier call may have left of a case."""
        self.records.pop(case, None)
        (self._work / f"{case}.json").unlink(missing_ok=True)
        for part in ("Tr", "Ts"):
            (self.root / f"labels{part}" / f"{case}{ENDING}").unlink(missing_ok=True)
            for number in range(len(self.contents.channel_names)):
                name = f"{case}_{number:04d}{ENDING}"
                (self.root / f"images{part}" / name).unlink(missing_ok=True)

    def finish(
        self,
        reference: str,
        archive: Path,
        failed: Mapping[str, str],
        stamp: Mapping[str, Any] | None = None,
    ) -> None:
        """dataset.json and provenance.json; then the folder of work goes."""
        cases = dict(sorted(self.records.items()))
        patients = {case: record["patient"] for case, record in cases.items()}
        labels = self.settings["labels"]
        about: dict[str, Any] = {
            "name": f"{self.settings['source']} {self.contents.key}",
            "reference": reference,
            "channel_names": {str(i): name for i, name in enumerate(self.contents.channel_names)},
            "labels": labels,
            "numTraining": sum(not record["held_out"] for record in cases.values()),
            "file_ending": ENDING,
        }
        if any(case != patient for case, patient in patients.items()):
            about["patients"] = patients
        write_json(self.root / "dataset.json", about)
        write_json(
            self.root / RECORD,
            {
                "settings": self.settings,
                "program": f"unpaired {__version__}",
                "reference": reference,
                "archive": printable(archive.resolve()),
                "stamp": stamp,
                "merged": list(self.contents.merged),
                "dropped": list(self.contents.dropped),
                "failed": dict(failed),
                "cases": cases,
            },
        )
        shutil.rmtree(self._work, ignore_errors=True)


def still_complete(root: Path, recorded: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the files of a case are as they were written, by size and sha256."""
    return all(
        _at(root, name, about).is_file()
        and _at(root, name, about).stat().st_size == about["bytes"]
        and digest(_at(root, name, about)) == about["sha256"]
        for name, about in recorded.items()
    )


def _at(root: Path, name: str, about: Mapping[str, Any]) -> Path:
    return root / str(about["folder"]) / name


def write_parts(out: Path, plans: Mapping[str, SetFolder]) -> Path | None:
    """splits_final.json, where some case is said to be for validation."""
    parts: dict[str, dict[str, list[str]]] = {p: {} for p in ("train", "val", "test")}
    for key, plan in plans.items():
        for case, record in sorted(plan.records.items()):
            if any(about["folder"].startswith("labels") for about in record["files"].values()):
                part = "test" if record["held_out"] else record["part"] or "train"
                parts[part].setdefault(key, []).append(case)
    path = out / SPLITS
    if not parts["val"]:
        return None
    train, val, test = ({k: tuple(v) for k, v in parts[p].items()} for p in parts)
    write_splits(path, [Split(train, val, test)])
    return path
