"""dataset.json as nnU-Net (version 1 and 2) and the Decathlon write it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unpaired.datasets.dataset import BACKGROUND, IGNORE
from unpaired.errors import DataError
from unpaired.files import printable, read_json
from unpaired.names import canonical_name

LABEL_LIMIT = 65535


@dataclass(frozen=True)
class LabelNames:
    """What the values of label files mean.

    Attributes:
        classes: class name -> value, background included.
        ignore: the value of voxels that nobody annotated (nnU-Net's `ignore`); None: there is none.
    """

    classes: dict[str, int]
    ignore: int | None = None

    @property
    def as_written(self) -> dict[str, int]:
        """The entry `labels` of a dataset.json."""
        return self.classes if self.ignore is None else {**self.classes, IGNORE: self.ignore}


def read_about(file: Path) -> dict[str, Any]:
    """The file's one JSON object.

    Raises:
        DataError: missing, not strict JSON, or no object.
    """
    about = read_json(file)
    if not isinstance(about, dict):
        raise DataError(f"{printable(file)} must be one JSON object {{...}}.")
    return about


def channels_of(about: dict[str, Any], file: Path) -> tuple[str, ...]:
    """Channel names by number, from `channel_names` or the older `modality`."""
    channels = about.get("channel_names", about.get("modality"))
    if not isinstance(channels, dict) or not channels:
        raise DataError(
            f'{printable(file)}: add "channel_names": {{"0": "CT"}} (one entry a channel).'
        )
    if sorted(channels) != sorted(str(i) for i in range(len(channels))):
        raise DataError(
            f"{printable(file)}: channels must be numbered 0, 1, ...; got {sorted(channels)}."
        )
    names = tuple(channels[str(i)] for i in range(len(channels)))
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"{printable(file)}: channel names must be texts, got {list(names)}.")
    return names


def label_names(about: dict[str, Any], file: Path) -> LabelNames:
    """What `labels` says: name -> value, or value -> name as older files have it.

    Raises:
        DataError: there is no such entry, or names and values do not fit each other.
    """
    entries = about.get("labels")
    if not isinstance(entries, dict) or not entries:
        raise DataError(f'{printable(file)}: add "labels": {{"background": 0, "liver": 1, ...}}.')
    if all(isinstance(v, str) and not v.isdigit() for v in entries.values()) and all(
        key.isdigit() for key in entries
    ):
        items = [(name, value) for value, name in entries.items()]
    else:
        items = list(entries.items())
    labels: dict[str, int] = {}
    for name, stored in items:
        value = stored[0] if _single(stored) else stored
        _refuse_label(name, value, file)
        _refuse_same(name, labels, file)
        labels[name] = int(value)
    return _with_background(labels, file)


def without_regions(about: dict[str, Any], file: Path) -> tuple[dict[str, Any], dict[int, int]]:
    """The object with one value a class, and the values to merge (old -> new).

    Regions as nnU-Net's region_based_training.md describes them, if no two share a value.

    Raises:
        DataError: two regions share a value.
    """
    labels, merge = about.get("labels"), dict[int, int]()
    if not isinstance(labels, dict):
        return about, merge
    plain: dict[str, Any] = {}
    owner: dict[Any, str] = {}
    for name, value in labels.items():
        plain[name] = value
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(one, int) for one in parts) or not parts:
            continue
        for one in parts:
            if one in owner:
                raise DataError(
                    f"{printable(file)}: the regions {owner[one]!r} and {name!r} share the value "
                    f"{one}, but classes exclude one another here. Name the parts instead."
                )
            owner[one] = name
        plain[name] = min(parts)
        merge |= {one: min(parts) for one in parts if one != min(parts)}
    return {**about, "labels": plain}, merge


def check_ending(about: dict[str, Any], known: Sequence[str], file: Path) -> None:
    """Refuse a `file_ending` of images that are not read.

    Raises:
        DataError: such as ".png"; without the key, or with a known one, nothing.
    """
    ending = about.get("file_ending", known[0])
    if not isinstance(ending, str) or ending.lower() not in known:
        raise DataError(
            f"{printable(file)}: files that end in {ending!r} are not read; save the images as one "
            f"of {', '.join(known)} and say so in file_ending."
        )


def patients_of(about: dict[str, Any], file: Path) -> dict[str, str]:
    """Case -> patient, where `patients` says so; nnU-Net has no such key and ignores it.

    Raises:
        DataError: not a mapping of texts.
    """
    patients = about.get("patients", {})
    if not isinstance(patients, dict) or not all(
        isinstance(p, str) and p for p in patients.values()
    ):
        raise DataError(f'{printable(file)}: "patients" must map cases to patients, as texts.')
    return patients


def _single(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1


def _refuse_label(name: str, value: Any, file: Path) -> None:
    if isinstance(value, list):
        raise DataError(
            f"{printable(file)}: {name!r} is a region {value}; nnU-Net's region-based training is "
            "not supported, since classes exclude one another here. Regions that share no value "
            "are merged by `unpaired import nnunet FOLDER OUT`; of others, name the parts."
        )
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not (is_integer or (isinstance(value, str) and value.isdecimal() and len(value) < 20)):
        raise DataError(
            f"{printable(file)}: the value of {name!r} must be an integer, not {value!r}."
        )
    if not 0 <= int(value) <= LABEL_LIMIT:
        raise DataError(f"{printable(file)}: the value {value} of {name!r} is not in 0 to 65535.")
    if canonical_name(name) == BACKGROUND and int(value) != 0:
        raise DataError(f"{printable(file)}: {name!r} must have the value 0, not {value}.")
    if canonical_name(name) == IGNORE and int(value) == 0:
        raise DataError(f"{printable(file)}: {name!r} cannot have the value 0, the background's.")


def _refuse_same(name: str, labels: dict[str, int], file: Path) -> None:
    """Class names are compared by canonical name: two of one would be merged without a word."""
    if name in labels:
        raise DataError(f"{printable(file)}: the class {name!r} stands for two values; rename one.")
    other = next((o for o in labels if canonical_name(o) == canonical_name(name)), None)
    if other is not None:
        raise DataError(
            f"{printable(file)}: {other!r} and {name!r} are one name, since case, '_' and '-' do "
            "not matter; rename one."
        )


def _with_background(labels: dict[str, int], file: Path) -> LabelNames:
    by_value = defaultdict(list)
    for name, value in labels.items():
        by_value[value].append(name)
    twice = next((names for names in by_value.values() if len(names) > 1), None)
    if twice:
        raise DataError(f"{printable(file)}: {' and '.join(map(repr, twice))} share one value.")
    if 0 not in by_value:
        labels = {"background": 0, **labels}
    ignore = {name: value for name, value in labels.items() if canonical_name(name) == IGNORE}
    classes = {name: value for name, value in labels.items() if name not in ignore}
    if len(classes) < 2:
        raise DataError(f"{printable(file)}: there is no class beside the background; add one.")
    return LabelNames(classes, next(iter(ignore.values()), None))
