"""What is kept of a run: a small file with its scores, configuration and machine; no weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unpaired.engine.evaluate import Score
from unpaired.engine.evaluation_files import score_from
from unpaired.errors import DataError
from unpaired.files import read_json, write_json

VERSION = 1


@dataclass(frozen=True)
class Record:
    """One test of one run.

    Attributes:
        identity: of the run: what it was told to compute, hashed.
        facts: the settings by full name, without paths.
        split: case ids by part and modality.
        scores: grid ("prepared", "native") -> the scores of every test case and class.
        floor: modality -> class -> Dice of the location prior, on the prepared grid.
        parameters: "training" and "test".
        seconds: "train" and "test", as measured.
        curve: the validations: step, score, and the mean Dice of each modality.
        environment: versions and machine.
    """

    identity: str
    test: str
    modalities: tuple[str, ...]
    facts: Mapping[str, Any]
    split: Mapping[str, Any]
    scores: Mapping[str, Sequence[Score]]
    floor: Mapping[str, Mapping[str, float]]
    parameters: Mapping[str, int]
    seconds: Mapping[str, float]
    curve: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]


def write_record(path: Path, record: Record) -> None:
    """Write it whole or not at all."""
    content = asdict(record)
    content["scores"] = {
        grid: [_compact(one) for one in found] for grid, found in record.scores.items()
    }
    write_json(path, {"version": VERSION, **content})


def read_record(path: Path) -> Record:
    """Read what `write_record` wrote.

    Raises:
        DataError: missing, damaged, or of another version.
    """
    content = read_json(path)
    try:
        if content.pop("version") != VERSION:
            raise ValueError("another version")
        content["scores"] = {
            grid: tuple(score_from(one) for one in found)
            for grid, found in content["scores"].items()
        }
        content["floor"] = {
            m: {cls: math.nan if v is None else v for cls, v in part.items()}
            for m, part in content["floor"].items()
        }
        content["modalities"] = tuple(content["modalities"])
        return Record(**content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} is no record of this version ({error!r}). Remove it and run the same command "
            "again: it is written anew."
        ) from error


def _compact(one: Score) -> dict[str, Any]:
    """Rounded far below what is printed: a record is read by people, too."""
    content = {**asdict(one), "extra": {k: round(v, 6) for k, v in one.extra.items()}}
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in content.items()}
