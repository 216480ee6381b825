"""What is known of a model besides its weights: for the model card and the export's record."""

import hashlib
import json
from pathlib import Path
from typing import Any

from unpaired.engine.evaluation_files import read_evaluation, summarise
from unpaired.engine.export.layout import RECORD, read_record
from unpaired.engine.members import Member
from unpaired.engine.model_file import DESCRIPTION
from unpaired.engine.run_folder import RunFolder
from unpaired.engine.test import read_recorded
from unpaired.errors import DataError
from unpaired.files import read_json


def facts_of(source: Member) -> dict[str, Any]:
    """Facts as JSON values; what is not known is left out.

    Returns:
        "digest" of the source's model and "config_sha256"; "steps"; "cases": modality ->
        {"train", "val", "test"}: counts; "scores": modality -> {"cases", "classes": {class:
        {"dice": {"mean", "std", "n"}, "asd_mm": ...}}} of the run's evaluation.
    """
    extra = _extra(source.folder)
    if isinstance(earlier := extra.get("facts"), dict) and "config_sha256" in earlier:
        return earlier  # an export of an export: what was known of the first
    config = json.dumps(source.config.model_dump(mode="json"), sort_keys=True)
    facts: dict[str, Any] = {
        "digest": source.digest,
        "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
    }
    if isinstance(step := extra.get("step"), int):
        facts["steps"] = step
    run = source.folder.parent
    if RunFolder(run).model == source.folder:
        facts.update(_of_run(run))
    return facts


def _extra(folder: Path) -> dict[str, Any]:
    """What the model's description says besides; an export's record says it where there is one."""
    try:
        if (folder / RECORD).is_file():
            return read_record(folder)
        found = read_json(folder / DESCRIPTION).get("extra", {})
    except (DataError, AttributeError):  # the copy may be missing; the weights are whole alone
        return {}
    return found if isinstance(found, dict) else {}


def _of_run(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        record = read_recorded(run)
        parts = {name: record.part(name) for name in ("train", "val", "test")}
        found["cases"] = {m: {n: len(p[m]) for n, p in parts.items()} for m in record.cases}
    except DataError:  # moved away from its records
        pass
    if (run / "evaluation" / "evaluation.json").is_file():
        found["scores"] = _scores(run / "evaluation")
    return found


def _scores(folder: Path) -> dict[str, Any]:
    """Mean, deviation and count of Dice and ASD, per modality and class."""
    kept: dict[str, Any] = {}
    for m, part in summarise(read_evaluation(folder).scores).items():
        classes = {
            cls: {
                metric: {k: _rounded(stats[metric][k]) for k in ("mean", "std", "n")}
                for metric in ("dice", "asd_mm")
            }
            for cls, stats in part["classes"].items()
        }
        kept[m] = {"cases": part["cases"], "classes": classes}
    return kept


def _rounded(value: float | int) -> float | int | None:
    return None if value != value else round(value, 4)
