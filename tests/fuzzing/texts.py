"""Readers of manifests, JSON and TOML for the fuzz: what they give, and what the text says."""

import csv
import io
import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unpaired.config import load_config
from unpaired.datasets.dataset import Case, Dataset
from unpaired.datasets.manifest import open_manifest
from unpaired.datasets.nnunet import open_nnunet
from unpaired.datasets.sources import open_dataset
from unpaired.datasets.split_file import read_splits


@dataclass(frozen=True)
class Reader:
    """`read(path)` is comparable; `says(path, found)`: whether the text, read plainly, agrees."""

    read: Callable[[Path], Any]
    says: Callable[[Path, Any], bool]

    def __call__(self, path: Path) -> Any:
        return self.read(path)


def _case(one: Case) -> tuple[Any, ...]:
    label = None if one.label is None else one.label.name
    return one.id, tuple(i.name for i in one.images), label, one.patient, one.held_out


def _facts(opened: Dataset) -> dict[str, Any]:
    return {
        "channels": opened.channel_names,
        "labels": opened.labels,
        "cases": [_case(one) for one in opened.cases],
    }


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8-sig"))


def _labels_agree(about: dict[str, Any], found: dict[str, Any]) -> bool:
    told = about["labels"]
    kept = {n: v for n, v in found["labels"].items() if (n, v) != ("background", 0) or n in told}
    named = about.get("channel_names", about.get("modality", {"0": "ct"}))
    if found["channels"] != tuple(named[str(i)] for i in range(len(named))):
        return False
    turned = all(told.get(str(v)) == n for n, v in kept.items())
    return len(kept) == len(told) and (
        turned or all(told.get(n) in (v, [v], str(v)) for n, v in kept.items())
    )


def _rows(path: Path) -> list[dict[str, str]]:
    text = path.read_text(encoding="utf-8-sig")
    between = max(",;\t", key=text.partition("\n")[0].count)
    table = list(csv.reader(io.StringIO(text, newline=""), delimiter=between))
    names = [cell.strip().casefold() for cell in table[0]]
    return [
        dict(zip(names, (c.strip() for c in cells), strict=True))
        for cells in table[1:]
        if any(cells)
    ]


def _manifest_says(path: Path, found: Any) -> bool:
    rows = [row for row in _rows(path) if row["modality"] == "ct"]
    told = sorted(
        (
            row["case"], tuple(Path(p.strip()).name for p in row["image"].split("|")),
            Path(row["label"]).name if row.get("label") else None,
            row.get("patient") or row["case"],
        )
        for row in rows
    )  # fmt: skip
    about = _json(path.with_suffix(".json"))
    about = about.get("ct", about)
    cases = sorted(one[:4] for one in found["cases"])
    return cases == told and _labels_agree(about, found)


def _about_says(path: Path, found: Any) -> bool:
    about = _json(path)
    patients = about.get("patients", {})
    right = all(one[3] == patients.get(one[0], one[0]) for one in found["cases"])
    return right and _labels_agree(about, found)


def _decathlon_says(path: Path, found: Any) -> bool:
    about = _json(path)
    told = {Path(e["image"]).name: Path(e["label"]).name for e in about.get("training", [])}
    own = {one[1][0]: one[2] for one in found["cases"] if one[2] is not None}
    return own == told and _labels_agree(about, found)


class _One:
    def __init__(self, name: str) -> None:
        self.id = self.patient = name


_CASES = {"ct": [_One(n) for n in "abc"], "mr": [_One("d")]}


def _splits(path: Path) -> Any:
    return [
        {p: sorted(f"{m}/{i}" for m, ids in s.part(p).items() for i in ids) for p in _PARTS}
        for s in read_splits(path, _CASES)
    ]


_PARTS = ("train", "val", "test")
_FULL = {**{n: f"ct/{n}" for n in "abc"}, "d": "mr/d"}


def _splits_say(path: Path, found: Any) -> bool:
    return found == [
        {p: sorted(_FULL.get(t, t) for t in fold.get(p, []) if not _elsewhere(t)) for p in _PARTS}
        for fold in _json(path)
    ]


def _elsewhere(text: str) -> bool:
    """Ids of modalities that are not given are passed over: the file may be of a joint run."""
    return "/" in text and text.partition("/")[0] not in _CASES


def _toml_says(path: Path, found: Any) -> bool:
    return _holds(found, tomllib.loads(path.read_text(encoding="utf-8-sig")))


def _holds(found: Any, told: Any) -> bool:
    """Every value of the text is in the configuration, but for how numbers are written."""
    if isinstance(told, dict):
        if not isinstance(found, dict):
            found = found.__dict__
        return all(key in found and _holds(found[key], value) for key, value in told.items())
    if isinstance(told, list):
        return len(told) == len(found) and all(map(_holds, found, told))
    if told == "none" and found is None:
        return True
    return (type(told) is type(found) and told == found) or (
        isinstance(told, int) and not isinstance(told, bool) and found == float(told)
    )  # fmt: skip


def _toml(path: Path) -> Any:
    return load_config(None, path)


TEXT_READERS = {
    "manifest": Reader(lambda path: _facts(open_manifest("ct", path)), _manifest_says),
    "manifest-json": Reader(lambda path: _facts(open_manifest("ct", path)), _manifest_says),
    "dataset-json": Reader(lambda path: _facts(open_nnunet("ct", path.parent)), _about_says),
    "decathlon-json": Reader(lambda path: _facts(open_dataset("ct", path.parent)), _decathlon_says),
    "splits-json": Reader(_splits, _splits_say),
    "toml": Reader(_toml, _toml_says),
}
