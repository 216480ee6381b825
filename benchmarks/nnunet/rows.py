"""The rows of the comparison, the trainings they need, and what is kept of each."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raw import MIXED

from unpaired.errors import DataError
from unpaired.files import read_json, sealed, write_text

FORMAT = 1
PLACES = 5


@dataclass(frozen=True)
class Row:
    """One tool, used in one way.

    Attributes:
        together: one network of all modalities; otherwise one of each.
        optimizer: of nnU-Net: "sgd", its default, or "adamw"; "" for ours.
    """

    name: str
    title: str
    together: bool
    optimizer: str = ""


ROWS = {
    row.name: row
    for row in (
        Row("nnunet-alone", "nnU-Net, one a modality", False, "sgd"),
        Row("nnunet-alone-adamw", "nnU-Net with AdamW, one a modality", False, "adamw"),
        Row("nnunet-mixed", "nnU-Net, modalities mixed", True, "sgd"),
        Row("nnunet-mixed-adamw", "nnU-Net with AdamW, modalities mixed", True, "adamw"),
        Row("ours-alone", "ours, one a modality", False),
        Row("ours-joint", "ours, joint", True),
    )
}
JOINT = "ours-joint"


@dataclass(frozen=True)
class Job:
    """One training, and the prediction of the test cases of its modalities.

    Attributes:
        network: the modality it learns, or `MIXED`.
        minutes: processor minutes of this training. A network of several modalities has the time
            of as many networks, so that every row of a table costs the same.
        settings: whatever else decides what the training computes.
    """

    data: str
    row: Row
    network: str
    modalities: tuple[str, ...]
    seed: int
    minutes: float
    part: str
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of its folder and its record."""
        own = "" if self.part == "test" else f"-{self.part}"
        return f"{self.row.name}-{self.network}-{self.minutes:g}m-s{self.seed}{own}"

    @property
    def identity(self) -> str:
        """A hash of everything that decides what comes out."""
        what = {**asdict(self), "row": self.row.name, "settings": dict(self.settings)}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def jobs_of(
    data: str,
    modalities: Sequence[str],
    rows: Sequence[str],
    seeds: int,
    minutes: float,
    part: str,
    settings: Mapping[str, Mapping[str, Any]],
) -> list[Job]:
    """Seed by seed, so that a stopped comparison has whole seeds.

    Args:
        minutes: processor minutes a modality.
        settings: "nnunet" and "ours" -> the settings of that tool's trainings.
    """
    return [
        Job(data, row, network, own, seed, minutes * len(own), part,
            settings["nnunet" if row.optimizer else "ours"])
        for seed in range(seeds)
        for row in (ROWS[name] for name in rows)
        for network, own in _networks(row, tuple(modalities))
    ]  # fmt: skip


def _networks(row: Row, modalities: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    if row.together:
        yield MIXED, modalities
        return
    for modality in modalities:
        yield modality, (modality,)


def store(job: Job, found: Mapping[str, Any], folder: Path) -> Path:
    """Write the record of a job that has ended: one small file with its checksum."""
    described = {**asdict(job), "row": job.row.name, "modalities": list(job.modalities)}
    record = sealed(
        {
            "format": FORMAT,
            "identity": job.identity,
            **described,
            **_rounded(found),
        }
    )
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in record.items())
    path = record_path(job, folder)
    write_text(path, f"{{\n{lines}\n}}\n")
    return path


def record_path(job: Job, folder: Path) -> Path:
    """Where its record lies: one folder a data set."""
    return folder / job.data / f"{job.name}.json"


def is_done(job: Job, folder: Path) -> bool:
    """Whether the record is there.

    Raises:
        DataError: it is of other settings, or damaged.
    """
    path = record_path(job, folder)
    if not path.exists():
        return False
    if read_json(path)["identity"] != job.identity:
        raise DataError(
            f"{path} was made with other settings, another split or other data; give another "
            "--store, or remove it to run it anew."
        )
    return True


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All records of the data sets in `folder`.

    Raises:
        DataError: one is damaged, or of another format.
    """
    records = []
    for path in sorted(folder.glob("*/*.json")):
        record = read_json(path)
        if record.get("format") != FORMAT:
            raise DataError(f"{path} is no record of this comparison; remove it.")
        records.append(record)
    return records


def _rounded(value: Any) -> Any:
    """Numbers of five digits after the point; nan becomes null."""
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return round(value, PLACES) if value == value else None
    return value
