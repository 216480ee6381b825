"""What is kept of a run: a small file with its scores, configuration and machine; no weights."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unpaired.errors import DataError
from unpaired.evaluation.evaluate import VOXELS
from unpaired.files import read_json, write_text
from unpaired.run.scores import Score

VERSION = 1
COLUMNS = (
    "modality", "case", "cls", "dice", "asd_mm", "hd95_mm", "nsd", "truth_voxels",
    "prediction_voxels", VOXELS,
)  # fmt: skip
PLACES = {"dice": 5, "nsd": 5, "asd_mm": 4, "hd95_mm": 4, VOXELS: 4}
"""Decimals that are kept."""


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
    """Write it whole or not at all: a line per score, so that it is small and can be compared."""
    content = {"version": VERSION, **asdict(record)}
    content["scores"] = {g: [_row(one) for one in found] for g, found in record.scores.items()}
    content["floor"] = {
        m: {c: _digits(v, 5) for c, v in f.items()} for m, f in content["floor"].items()
    }
    write_text(path, _lines(content) + "\n")


def _row(one: Score) -> list[Any]:
    """Rounded far below what is printed."""
    values = {**asdict(one), **one.extra}
    return [_digits(values.get(name), PLACES.get(name, 0)) for name in COLUMNS]


def _digits(value: Any, places: int) -> Any:
    if not isinstance(value, float):
        return value
    return round(value, places) if math.isfinite(value) else None


def _lines(value: Any, indent: str = "") -> str:
    """JSON with tables and long lists of tables a line each, everything else on one line."""
    if isinstance(value, dict) and value and len(json.dumps(value)) > 100:
        inside = [f"{json.dumps(k)}: {_lines(v, indent + ' ')}" for k, v in value.items()]
        return "{\n" + ",\n".join(f"{indent} {line}" for line in inside) + f"\n{indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], list | dict):
        inside = [json.dumps(item, allow_nan=False) for item in value]
        return "[\n" + ",\n".join(f"{indent} {line}" for line in inside) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)


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
            grid: tuple(_score(one) for one in found) for grid, found in content["scores"].items()
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


def _score(row: Sequence[Any]) -> Score:
    values: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    voxels = values.pop(VOXELS)
    known: dict[str, Any] = {k: math.nan if v is None else v for k, v in values.items()}
    return Score(**known, extra={} if voxels is None else {VOXELS: float(voxels)})
