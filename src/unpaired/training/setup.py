"""From folders to what a training needs: classes, split, plan, prepared cases, all recorded."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from unpaired.build import crop_rule, size_step
from unpaired.config import Config, config_from_toml, to_toml
from unpaired.data.augment import mirror_axes
from unpaired.data.plan import Plan, make_plan
from unpaired.data.prepare import PreparedCase, PreparedSet, open_prepared, prepare
from unpaired.datasets.dataset import Case, Dataset, class_names, value_table
from unpaired.datasets.make_split import (
    check_modalities,
    check_names,
    free_cases,
    make_split,
    shares,
)
from unpaired.datasets.sources import open_dataset
from unpaired.datasets.split import Split, k_folds, random_split, read_splits, write_splits
from unpaired.datasets.split_file import PARTS
from unpaired.errors import DataError, ResourceError, UsageError
from unpaired.files import read_json, write_json, write_text
from unpaired.run import RunFolder

Progress = Callable[..., None]

MAY_CHANGE = {
    "train.device",
    "train.threads",
    "train.prefetch",
    "train.log_every",
    "train.max_minutes",
    "train.early_stop",
    "data.workers",
}
"""What may differ when a run goes on: it does not change what the steps compute."""


@dataclass(frozen=True)
class Setup:
    """Everything decided before the first step."""

    plan: Plan
    split: Split
    cases: dict[str, dict[str, PreparedCase]]
    """modality -> case id -> prepared case."""

    def part(self, name: str) -> dict[str, list[PreparedCase]]:
        """The cases of `train`, `val` or `test`, by modality."""
        ids: Mapping[str, tuple[str, ...]] = getattr(self.split, name)
        return {m: [self.cases[m][case] for case in ids.get(m, ())] for m in self.cases}


def make_setup(
    config: Config,
    data: Mapping[str, Path],
    folder: RunFolder,
    prepared: Path | None = None,
    source: Plan | None = None,
    progress: Progress | None = None,
) -> None:
    """Decide and prepare everything, writing it into the run folder. Repeatable.

    Args:
        prepared: a cache to share between runs; the run folder's own by default.
        source: the plan of the run this one is initialised from: its grid and classes are kept.

    Raises:
        DataError: the data are at fault. UsageError: the folder belongs to another run.
    """
    if not data:
        raise UsageError("there is no data: give --data NAME=FOLDER, once per modality.")
    check_modalities(config.modalities, data)
    check_names(config.data, data)
    if folder.last.exists():
        check_same_config(config_from_toml(folder.config), config, folder)
    datasets = {m: open_dataset(m, Path(root)) for m, root in data.items()}
    labelled = {m: [c for c in d.cases if c.label is not None] for m, d in datasets.items()}
    for m, cases in labelled.items():
        if not cases:
            raise DataError(f"{datasets[m].root}: no case of {m} has a label to learn from.")
    _begin(config, folder)
    split = _split(config, labelled, folder)
    plan = _plan(config, datasets, split, folder, source)
    cache = (prepared or folder.prepared) / cache_key(plan)
    kept = {m: replace(d, cases=tuple(labelled[m])) for m, d in datasets.items()}
    record = _data_record(kept, plan, cache)
    if folder.last.exists():
        _check_same_data(read_json(folder.data), record, folder)
    with _alone(cache):
        prepare(_used(kept, split), plan, cache, config.data.workers, progress)
    write_json(folder.data, record)
    folder.write_environment()


def _used(datasets: Mapping[str, Dataset], split: Split) -> dict[str, Dataset]:
    """The data sets without the cases that are in no part of the split."""
    ids = {m: {i for part in PARTS for i in split.part(part).get(m, ())} for m in datasets}
    return {
        m: replace(d, cases=tuple(c for c in d.cases if c.id in ids[m]))
        for m, d in datasets.items()
    }


def cache_key(plan: Plan) -> str:
    """Runs that share a folder of prepared cases share those, and only those, of the same plan."""
    parts = "".join(f"{m}:{plan.fingerprint(m)};" for m in sorted(plan.modalities))
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Wait until no other process prepares into the same cache."""
    lock = FileLock(cache / ".lock")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        held = lock.acquire()
    except OSError as error:
        raise ResourceError(f"cannot write {cache}: {error.strerror}. Choose another.") from error
    with held:
        yield


def _begin(config: Config, folder: RunFolder) -> None:
    """A run with a checkpoint goes on as it was; one without is planned anew from this call."""
    if not folder.last.exists():
        folder.splits.unlink(missing_ok=True)
        folder.plan.unlink(missing_ok=True)
    write_text(folder.config, to_toml(config))


def _check_same_data(old: Any, new: Mapping[str, Any], folder: RunFolder) -> None:
    """Raise UsageError where a run would go on with other data; folders may have moved."""
    for m, part in new["modalities"].items():
        before = old["modalities"].get(m, {})
        for name, what in (("channel_names", "channels"), ("values", "label values")):
            if before.get(name) != part[name]:
                raise UsageError(
                    f"{folder.root} was trained on other data: the {what} of {m} were "
                    f"{before.get(name)}, now {part[name]}. Give the same data, or another --out."
                )
        if before["cases"].keys() != part["cases"].keys():
            other = sorted(before["cases"].keys() ^ part["cases"].keys())
            raise UsageError(
                f"{folder.root} was trained on other data: {m} differs in the cases "
                f"{', '.join(other[:5])}. Give the same data, or another --out."
            )


def load_setup(folder: RunFolder) -> Setup:
    """Read back what `make_setup` wrote."""
    record = read_json(folder.data)
    cache: PreparedSet = open_prepared(Path(record["prepared"]))
    plan = Plan.read(folder.plan)
    cases = {m: {case.id: case for case in cache.cases[m]} for m in plan.modalities}
    known = {m: list(cases[m].values()) for m in plan.modalities}
    return Setup(plan, read_splits(folder.splits, known)[0], cases)


def check_same_config(old: Config, new: Config, folder: RunFolder) -> None:
    """Raise UsageError where a run would go on under another configuration."""
    before, after = _flat(old.model_dump()), _flat(new.model_dump())
    changed = [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
        and key not in MAY_CHANGE
        and key.split(".")[0] not in {"predict", "evaluate"}
    ]
    if changed:
        raise UsageError(
            f"{folder.root} holds a run with another configuration ({'; '.join(changed)}). "
            "Give the same values to go on. To begin anew, give another --out, or delete "
            f"{folder.root}."
        )


def _split(config: Config, cases: Mapping[str, list[Case]], folder: RunFolder) -> Split:
    """The run's own split once it has one; else as configured."""
    if folder.splits.exists():
        return read_splits(folder.splits, cases)[0]
    split = make_split(config.data, cases)
    write_splits(folder.splits, [split])
    return split


def _plan(
    config: Config,
    datasets: Mapping[str, Dataset],
    split: Split,
    folder: RunFolder,
    source: Plan | None,
) -> Plan:
    if folder.plan.exists():
        plan = Plan.read(folder.plan)
        if plan.classes != class_names(datasets, config.data.classes) or set(
            plan.modalities
        ) != set(datasets):
            raise UsageError(
                f"{folder.root} was planned for other classes or modalities "
                f"({', '.join(plan.modalities)}: {', '.join(plan.classes)}). Choose another --out."
            )
        return plan
    step = size_step(config, config.data.dims)
    rule = crop_rule(config)
    plan = make_plan(datasets, config.data, config.modalities, step, train=split.train, crop=rule)
    if source is not None:
        plan = _like_source(plan, source)
    why = "Mirroring is switched off." if config.augment.mirror == "none" else mirror_axes(plan)[1]
    parts = {f"split.{m}": text for m, text in split.reasons.items()}
    plan = plan.model_copy(update={"reasons": {**plan.reasons, **parts, "mirror": why}})
    plan.write(folder.plan)
    return plan


def _like_source(plan: Plan, source: Plan) -> Plan:
    """Keep the grid of the run to start from, and the intensities of the modalities it knows."""
    if plan.classes != source.classes:
        raise UsageError(
            f"train.init_from was trained on the classes {', '.join(source.classes)}, the data "
            f"hold {', '.join(plan.classes)}. Give both the same class names."
        )
    known = {m: source.modalities.get(m, part) for m, part in plan.modalities.items()}
    why = dict.fromkeys(("spacing_mm", "patch"), "as in the run that training starts from")
    kept = {
        n: getattr(source, n)
        for n in ("spacing_mm", "slice_axis", "plane", "patch", "context", "order")
    }
    if plan.coarse is not None and source.coarse is not None:
        kept["coarse"] = source.coarse
    return plan.model_copy(update={**kept, "modalities": known, "reasons": {**plan.reasons, **why}})


def _data_record(datasets: Mapping[str, Dataset], plan: Plan, cache: Path) -> dict[str, Any]:
    """data.json: where each case lies, so that prediction and the report need nothing else."""
    return {
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


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            found.update(_flat(item, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = item
    return found


# Cross-validation: one configuration per fold, sharing one file of splits.


def fold_configs(
    config: Config, data: Mapping[str, Path], out: Path, folds: int
) -> dict[str, Config]:
    """ "fold_0", ... -> its configuration. Without a splits file, one is drawn and written.

    The test part, that of the random split and the cases the data sets hold out, is the same in
    every fold: the folds share out the rest.

    Raises:
        UsageError: `out`, or the given file, holds another number of folds.
        DataError: too few patients for the folds.
    """
    check_names(config.data, data)
    path = out / "splits_final.json"
    drawn: dict[str, object] = {"cases": {}}  # the file holds what was drawn
    if config.data.splits is not None:
        path = Path(config.data.splits)
        _check_number(path, folds)
    else:
        _draw(config, data, path, folds)
    return {
        f"fold_{i}": config.model_copy(
            update={
                "data": config.data.model_copy(update={**drawn, "splits": str(path), "fold": i})
            }
        )
        for i in range(folds)
    }


def _check_number(path: Path, folds: int) -> None:
    entries = read_json(path)
    if not isinstance(entries, list):
        raise DataError(f"{path} must be a list with one entry a fold.")
    if len(entries) != folds:
        raise UsageError(
            f"--folds {folds}, but data.splits={path} holds {len(entries)}. Ask for as many folds "
            "as the file holds."
        )


def _draw(config: Config, data: Mapping[str, Path], path: Path, folds: int) -> None:
    """Write the splits; drawn again from the same data they must be the same."""
    datasets = {m: open_dataset(m, root) for m, root in data.items()}
    cases = {m: [c for c in d.cases if c.label is not None] for m, d in datasets.items()}
    free, fixed = free_cases(config.data, cases)
    test = dict(fixed.test)
    parts = shares(config.data, cases)
    if any(part[2] for part in parts.values()):
        drawn = random_split(free, parts, config.data.split_seed).test
        test = {m: (*drawn.get(m, ()), *held) for m, held in test.items()}
    kept = {m: [*free[m], *(c for c in cases[m] if c.id in set(fixed.test[m]))] for m in cases}
    splits = k_folds(kept, folds, config.data.split_seed, test)
    before = path.read_bytes() if path.exists() else None
    draft = path.with_name(".splits_new.json")
    write_splits(draft, splits)
    if before is not None and draft.read_bytes() != before:
        draft.unlink()
        raise UsageError(
            f"{path} holds other folds than these data and settings give. Use the same --folds, "
            "data and data.split, or another --out."
        )
    draft.replace(path)
