"""What is kept of a run: its settings, scores and machine, in a small file without weights."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unpaired.config import Config
from unpaired.errors import DataError
from unpaired.evaluation.evaluate import VOXELS
from unpaired.experiments.rows import Network
from unpaired.files import read_json, sealed, write_text
from unpaired.methods import Consistency
from unpaired.run.scores import Score
from unpaired.training.prepare import MAY_CHANGE

FREE = MAY_CHANGE - {"train.early_stop"} | {"data.splits", "data.fold"}
"""Settings that are not part of a run's identity; the split itself is, and so is early stopping,
which may be set late but decides where a run ends and which weights it keeps."""
IDLE = {
    "loss.alpha": ("loss.aux_target",),
    "loss.gamma": ("loss.tau", "loss.mask_absent"),
}
"""Weight -> settings of a term that is not computed where the weight is 0."""
WEIGHTS = "model.pretrained"
FILES = (WEIGHTS, "train.init_from")
"""Settings that name a file."""
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
        identity: hash of everything that decides what the run computes.
        settings: by full name, without paths.
        split: case ids by part and modality.
        scores: grid ("prepared", "native") -> the scores of every test case and class.
        floor: modality -> class -> Dice of the location prior, on the prepared grid.
        parameters: "training" and "test".
        seconds: "train" and "test", as measured.
        curve: the validations: step, score, and the mean Dice of each modality.
        environment: versions and machine.
        pretrained: what a file of weights filled: its "file", "layout" and "percent" of encoder and
            decoder; empty where all began at random.
    """

    identity: str
    test: str
    modalities: tuple[str, ...]
    settings: Mapping[str, Any]
    split: Mapping[str, Any]
    scores: Mapping[str, Sequence[Score]]
    floor: Mapping[str, Mapping[str, float]]
    parameters: Mapping[str, int]
    seconds: Mapping[str, float]
    curve: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]
    pretrained: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_papers_method(self) -> bool:
        """Whether it is of the paper's method; else of a comparator."""
        return is_papers_method(self.settings)

    @property
    def network(self) -> Network:
        """What was trained."""
        return network_of(self.settings)


def is_papers_method(settings: Mapping[str, Any]) -> bool:
    """Whether settings by full name are of the paper's method; else of a comparator."""
    return bool(settings.get("model.name", Consistency.name) == Consistency.name)


def network_of(settings: Mapping[str, Any]) -> Network:
    """The backbone or the comparator that settings name, and how many axes it sees."""
    key = "model.backbone" if is_papers_method(settings) else "model.name"
    return Network(str(settings[key]), int(settings.get("data.dims", 2)))


def write_record(path: Path, record: Record) -> None:
    """Write it whole or not at all: a line per score, so that it is small and can be compared."""
    content: dict[str, Any] = {"version": VERSION}
    for name, value in asdict(record).items():
        content["facts" if name == "settings" else name] = value  # as the first version wrote it
    content["scores"] = {g: [_row(one) for one in scores] for g, scores in record.scores.items()}
    content["floor"] = {
        m: {c: _digits(v, 5) for c, v in f.items()} for m, f in content["floor"].items()
    }
    write_text(path, _lines(sealed(content)) + "\n")


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
        content["settings"] = content.pop("facts")
        content["scores"] = {
            grid: tuple(map(_score, rows)) for grid, rows in content["scores"].items()
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


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that decide what a run computes and how it is scored, by full name."""
    return _bound(config.model_dump(mode="json"))


def named_settings(config: Config) -> dict[str, Any]:
    """Those in use, with files by name only: a record goes where the folders do not."""
    settings = in_use(settings_of(config))
    return {k: Path(v).name if k in FILES and v else v for k, v in settings.items()}


def chosen_settings(config: Config) -> dict[str, Any]:
    """Those in use that are not the default: a setting that is new later changes no identity."""
    used = in_use(settings_of(config))
    chosen = _bound(config.model_dump(mode="json", exclude_defaults=True))
    return {key: value for key, value in chosen.items() if key in used}


def in_use(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without the settings that change nothing: runs that compute the same are equal."""
    idle = {key for weight, keys in IDLE.items() if settings.get(weight) == 0 for key in keys}
    return {key: value for key, value in settings.items() if key not in idle}


def changes(before: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]) -> str:
    """ "loss.alpha: 0.4 -> 0.3; ..." of the settings that differ; empty where none does."""
    return "; ".join(
        f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
        for key in keys
        if before.get(key) != now.get(key)
    )


def digest(value: Any) -> str:
    """A hash of what JSON can say, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _bound(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in _by_full_name(content) if key not in FREE}


def _by_full_name(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in section.items():
        if isinstance(item, dict) and item:
            yield from _by_full_name(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
