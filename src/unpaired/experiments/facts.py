"""The settings that make a run what it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unpaired.config import Config
from unpaired.training.prepare import MAY_CHANGE

FREE = MAY_CHANGE - {"train.early_stop"} | {"data.splits", "data.fold"}
"""Settings that are not part of a run's identity; the split itself is, and so is early stopping,
which a run may be told of late but which decides where it ends and which weights it keeps."""


IDLE = {
    "loss.alpha": ("loss.aux_target",),
    "loss.gamma": ("loss.tau", "loss.mask_absent"),
}
"""Weight -> settings of a term that is not computed where the weight is 0."""


def facts_of(config: Config) -> dict[str, Any]:
    """The settings that decide what a run computes and how it is scored, by full name."""
    return _bound(config.model_dump(mode="json"))


def named_facts(config: Config) -> dict[str, Any]:
    """The same with files by name only: a record goes where the folders do not."""
    files = ("model.pretrained", "train.init_from")
    found = in_use(facts_of(config))
    return {k: Path(v).name if k in files and v else v for k, v in found.items()}


def chosen_facts(config: Config) -> dict[str, Any]:
    """Of these the ones that are not the default: a setting that is new later changes no name."""
    used = in_use(facts_of(config))
    found = _bound(config.model_dump(mode="json", exclude_defaults=True))
    return {key: value for key, value in found.items() if key in used}


def in_use(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Without the settings that change nothing: runs that compute the same are equal."""
    idle = {key for weight, keys in IDLE.items() if facts.get(weight) == 0 for key in keys}
    return {key: value for key, value in facts.items() if key not in idle}


def _bound(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in _flat(content).items() if key not in FREE}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict) and item:
            found.update(_flat(item, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = item
    return found
