"""data.json: where each case of a run lies, so that nobody after training needs anything else."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unpaired.data.plan import Plan
from unpaired.datasets.dataset import Case, Dataset, value_table
from unpaired.datasets.nnunet import check_ids
from unpaired.errors import DataError, UsageError
from unpaired.files import printable, read_json


@dataclass(frozen=True)
class RunData:
    """The scans and label files that a run was given, and where its prepared cases are."""

    classes: tuple[str, ...]
    prepared: Path
    """The folder of the prepared cases."""
    tables: dict[str, dict[int, int]]
    """modality -> value in its label files -> class index."""
    cases: dict[str, dict[str, Case]]
    """modality -> case id -> case."""


def read_data(path: Path) -> RunData:
    """Read a run's data.json.

    Raises:
        DataError: missing, damaged, or with case ids that are no file names.
    """
    content = read_json(path)
    try:
        modalities = content["modalities"]
        tables = {
            m: {int(value): index for value, index in part["values"].items()}
            for m, part in modalities.items()
        }
        cases = {
            m: {i: _case(i, m, about) for i, about in part["cases"].items()}
            for m, part in modalities.items()
        }
        check_ids(modalities, path)
        for known in cases.values():
            check_ids(known, path)
        if content.get("meaning", meaning := _meaning(content)) != meaning:
            raise DataError(
                f"{printable(path)} changed since it was written: classes, values or cases are "
                "others. Start the training again with the same command: it writes the file anew."
            )
        return RunData(tuple(content["classes"]), Path(content["prepared"]), tables, cases)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{printable(path)} is not what training writes ({error!r}). Start the training "
            "again with the same command: it writes the file anew."
        ) from error


def _case(case: str, modality: str, about: Mapping[str, Any]) -> Case:
    label = None if about["label"] is None else Path(about["label"])
    return Case(case, modality, tuple(map(Path, about["images"])), label, about["patient"])


def data_record(datasets: Mapping[str, Dataset], plan: Plan, cache: Path) -> dict[str, Any]:
    """What data.json holds: of every case its files and its patient."""
    content = {
        "classes": list(plan.classes),
        "prepared": str(cache.resolve()),
        "modalities": {
            m: {
                "root": str(d.root.resolve()),
                "channel_names": list(d.channel_names),
                "values": {str(v): i for v, i in value_table(d, plan.classes).items()},
                "cases": {
                    case.id: {
                        "images": [str(path.resolve()) for path in case.images],
                        "label": None if case.label is None else str(case.label.resolve()),
                        "patient": case.patient,
                    }
                    for case in d.cases
                },
            }
            for m, d in datasets.items()
        },
    }
    return {**content, "meaning": _meaning(content)}


def _meaning(content: Mapping[str, Any]) -> str:
    """sha256 of all but the places of files, which may be mended where they have moved."""
    parts = {
        m: [
            part["channel_names"],
            part["values"],
            {i: [case["patient"], case["label"] is None] for i, case in part["cases"].items()},
        ]
        for m, part in content["modalities"].items()
    }
    text = json.dumps([content["classes"], parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def check_same_data(old: Mapping[str, Any], new: Mapping[str, Any], run: Path) -> None:
    """Compare two contents of data.json; folders may have moved.

    Raises:
        UsageError: the run would go on with other data.
    """
    for m, part in new["modalities"].items():
        before = old["modalities"].get(m, {})
        for name, what in (("channel_names", "channels"), ("values", "label values")):
            if before.get(name) != part[name]:
                raise UsageError(
                    f"{run} was trained on other data: the {what} of {m} were "
                    f"{before.get(name)}, now {part[name]}. Give the same data, or another --out."
                )
        if before["cases"].keys() != part["cases"].keys():
            other = sorted(before["cases"].keys() ^ part["cases"].keys())
            raise UsageError(
                f"{run} was trained on other data: {m} differs in the cases "
                f"{', '.join(other[:5])}. Give the same data, or another --out."
            )
