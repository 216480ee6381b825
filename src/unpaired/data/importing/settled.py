"""What an import did; and whether an earlier call has imported just this archive and all of it is
still whole: then it need not be unpacked again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unpaired.data.importing.folder import RECORD, SPLITS, still_whole
from unpaired.errors import DataError
from unpaired.files import read_json


@dataclass(frozen=True)
class Outcome:
    """What an import did.

    Attributes:
        folders: modality -> its data set, for `--data`.
        cases: modality -> cases that are there now.
        kept: cases that an earlier call had already written.
        failed: "modality/case" -> why it was not written.
        dropped: what of the archive is not imported, and why.
        notes: "modality/case" -> what was odd or changed.
        splits: splits_final.json, where the archive or the literature says parts.
    """

    folders: dict[str, Path] = field(default_factory=dict)
    cases: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    splits: Path | None = None


def stamp_of(archive: Path, keys: list[str], modality: str | None) -> dict[str, Any] | None:
    """What tells an archive from another, and what was made of it; None for a folder.

    Args:
        keys: the modalities that were found in it.
        modality: the name that the caller chose, if any.
    """
    if not archive.is_file():
        return None
    about = archive.stat()
    made = {"sets": sorted(keys), "modality": modality}
    return {"bytes": about.st_size, "mtime_ns": about.st_mtime_ns, **made}


def settled(
    archive: Path, out: Path, settings: Mapping[str, Any], modality: str | None
) -> dict[str, dict[str, Any]] | None:
    """Modality -> provenance.json of the earlier call; None if anything of it is missing, changed
    or failed, or the archive is another one."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(out.glob(f"*/{RECORD}")):
        try:
            record = read_json(file)
        except DataError:
            return None
        if isinstance(record, dict) and isinstance(record.get("stamp"), dict):
            found[file.parent.name] = record
    stamp = stamp_of(archive, list(found), modality)
    whole = stamp is not None and bool(found) and all(
        _is_same(record, stamp, settings) and _is_whole(out / key, record)
        for key, record in found.items()
    )  # fmt: skip
    return found if whole and _splits_are_there(out, found) else None


def kept_outcome(out: Path, records: Mapping[str, Mapping[str, Any]]) -> Outcome:
    """What the earlier call did."""
    cases = {key: record["cases"] for key, record in records.items()}
    notes = {f"{k}/{i}": c["notes"] for k, own in cases.items() for i, c in own.items()}
    return Outcome(
        {key: out / key for key in records},
        {key: len(own) for key, own in cases.items()},
        sum(map(len, cases.values())),
        {},
        list(dict.fromkeys(text for record in records.values() for text in record["dropped"])),
        {name: texts for name, texts in notes.items() if texts},
        out / SPLITS if (out / SPLITS).is_file() else None,
    )


def _splits_are_there(out: Path, records: Mapping[str, Mapping[str, Any]]) -> bool:
    parts = {c["part"] for record in records.values() for c in record["cases"].values()}
    return "val" not in parts or (out / SPLITS).is_file()


def _is_same(
    record: Mapping[str, Any], stamp: Mapping[str, Any], settings: Mapping[str, Any]
) -> bool:
    before = record.get("settings", {})
    same = all(before.get(name) == value for name, value in settings.items())
    return same and record["stamp"] == stamp and not record.get("failed")


def _is_whole(root: Path, record: Mapping[str, Any]) -> bool:
    try:
        cases = record["cases"].values()
        listed = (root / "dataset.json").is_file()
        return listed and all(still_whole(root, case["files"]) for case in cases)
    except (AttributeError, KeyError, OSError, TypeError):
        return False
