"""Splits in files: nnU-Net's `splits_final.json`, read and written; and what a split is."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from unpaired import files
from unpaired.errors import DataError
from unpaired.names import did_you_mean

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
MODALITY = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
Ids = dict[str, tuple[str, ...]]


@runtime_checkable
class HasPatient(Protocol):
    """What a split needs of a case; `Case` and `PreparedCase` both have it."""

    @property
    def id(self) -> str: ...
    @property
    def patient(self) -> str: ...


Cases = Mapping[str, Sequence[HasPatient]]


@dataclass(frozen=True)
class Split:
    """Case ids of each part, by modality; `reasons` holds what the user should know of a draw."""

    train: Ids
    val: Ids
    test: Ids
    reasons: dict[str, str] = field(default_factory=dict)

    def part(self, name: str) -> Ids:
        """The part of that name: "train", "val" or "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]


def write_splits(path: Path, splits: Sequence[Split]) -> None:
    """Write as nnU-Net's `splits_final.json`: one entry a fold, ids as "modality/case"."""
    files.write_text(path, splits_text(splits))


def splits_text(splits: Sequence[Split]) -> str:
    """What `write_splits` writes."""
    return files.json_text(
        [
            {part: [f"{m}/{i}" for m, ids in s.part(part).items() for i in ids] for part in PARTS}
            for s in splits
        ]
    )


def read_splits(path: Path, cases: Cases) -> list[Split]:
    """Read `splits_final.json`, ours or nnU-Net's (plain ids, where only one modality has them).

    Where ids name the modalities at hand ("modality/case"), those of other modalities are passed
    over: so a run on one modality takes the file of a joint run, and is tested on its cases.

    Raises:
        DataError: another structure, unknown or ambiguous ids, a case or patient in two parts.
    """
    entries = files.read_json(path)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path} must be a list with one entry a fold.")
    return [_read_fold(f"{path}, fold {n}", entry, cases) for n, entry in enumerate(entries)]


def _read_fold(where: str, entry: Any, cases: Cases) -> Split:
    if not isinstance(entry, dict) or not {"train", "val"} <= set(entry) <= set(PARTS):
        raise DataError(f'{where}: expected "train" and "val" (and perhaps "test") lists.')
    owner: dict[str, list[str]] = {}
    patient: dict[tuple[str, str], str] = {}
    for modality, members in cases.items():
        for one in members:
            owner.setdefault(one.id, []).append(modality)
            patient[modality, one.id] = one.patient
    parts: dict[str, dict[str, list[str]]] = {}
    place: dict[tuple[str, str], str] = {}
    home: dict[str, tuple[str, str]] = {}
    texts = [text for part in PARTS for text in _texts(where, part, entry.get(part, []))]
    ours = any(text.partition("/")[0] in cases for text in texts)
    for part in PARTS:
        parts[part] = {modality: [] for modality in cases}
        for text in _texts(where, part, entry.get(part, [])):
            if ours and _elsewhere(text, cases, owner):
                continue
            key = _resolve(where, text, cases, owner)
            if key in place:
                raise DataError(f"{where}: {text!r} is named twice ({place[key]}, {part}).")
            place[key] = part
            other, previous = home.setdefault(patient[key], (text, part))
            if previous != part:
                raise DataError(
                    f"{where}: {other!r} ({previous}) and {text!r} ({part}) are of one patient; "
                    "a patient belongs to one part only."
                )
            parts[part][key[0]].append(key[1])
    train, val, test = ({m: tuple(ids) for m, ids in parts[p].items()} for p in PARTS)
    return Split(train, val, test)


def _texts(where: str, part: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DataError(f"{where}: {part!r} must be a list of case ids.")
    return value


def _elsewhere(text: str, cases: Cases, owner: Mapping[str, list[str]]) -> bool:
    """Whether the id is of a modality that was not given; "MR/x" for mr is a slip, not that."""
    modality, slash, case = text.partition("/")
    known = {name.casefold() for name in cases}
    named = MODALITY.fullmatch(modality) and modality.casefold() not in known
    return bool(slash and case and named and text not in owner)


def _resolve(
    where: str, text: str, cases: Cases, owner: Mapping[str, list[str]]
) -> tuple[str, str]:
    modality, _, case = text.partition("/")
    if case and modality in owner.get(case, ()):
        return modality, case
    owners = owner.get(text, [])
    if len(owners) == 1:
        return owners[0], text
    if owners:
        names = " or ".join(f'"{modality}/{text}"' for modality in owners)
        raise DataError(f"{where}: several modalities have the case {text!r}; write {names}.")
    known = [*owner, *(f"{m}/{c.id}" for m, members in cases.items() for c in members)]
    raise DataError(f"{where}: there is no case {text!r}.{did_you_mean(text, known)}")
