"""From scans to a prepared run: its split, plan and prepared cases, all recorded in its folder."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from unpaired.checks.survey import all_at_once
from unpaired.config import Config, to_toml
from unpaired.data.augment import mirror_axes
from unpaired.data.plan import Plan
from unpaired.data.prepare import lost_classes, prepare
from unpaired.datasets.dataset import Case, Dataset, class_names
from unpaired.datasets.make_split import (
    check_modalities,
    check_names,
    make_split,
)
from unpaired.datasets.passed_over import remarks
from unpaired.datasets.sources import open_dataset
from unpaired.datasets.split_file import PARTS, Split, read_splits, write_splits
from unpaired.errors import CasesError, DataError, UsageError
from unpaired.files import cannot_write, make_folder, read_json, write_json, write_text
from unpaired.methods import Method, method_of
from unpaired.progress import Progress
from unpaired.run import RunFolder
from unpaired.run.data import check_same_data, data_record
from unpaired.run.log import note_schedule
from unpaired.training.checkpoint import find_state
from unpaired.training.inputs import SPLITS, all_inputs, check_inputs, record_inputs
from unpaired.training.network import check_network
from unpaired.workers import Workers

MAY_CHANGE = {
    "train.device",
    "train.threads",
    "train.prefetch",
    "train.log_every",
    "train.heartbeat_seconds",
    "train.max_minutes",
    "train.early_stop",
    "data.workers",
}
"""What may differ when a run goes on: it does not change what the steps compute."""


@dataclass(frozen=True)
class Preparing:
    """How the data of a run are prepared.

    Attributes:
        cache: a folder of prepared cases to share between runs; the run's own by default.
        method: as of `train`.
        accept_changes: go on with images, labels or splits that changed since the run began.
    """

    cache: Path | None = None
    method: Method | None = None
    accept_changes: bool = False


def prepare_run(
    config: Config,
    data: Mapping[str, Path | str | Dataset],
    folder: RunFolder,
    how: Preparing = Preparing(),
    progress: Progress | None = None,
) -> list[str]:
    """Decide and prepare everything, writing it into the run folder. Repeatable.

    Args:
        data: modality -> its data set, or the folder of it.

    Returns:
        What deserves a look, a sentence each: files that are passed over, classes that are lost.

    Raises:
        DataError: the data are at fault (every case that is, is said), or the run's checkpoints.
        UsageError: the folder belongs to another run, or its inputs changed.
    """
    with all_at_once(data, config.data.workers, progress):
        return _prepare_run(config, data, folder, how, progress)


def _prepare_run(
    config: Config,
    data: Mapping[str, Path | str | Dataset],
    folder: RunFolder,
    how: Preparing,
    progress: Progress | None,
) -> list[str]:
    method, source = method_of(config, how.method), source_plan(config)
    if not data:
        raise UsageError("there is no data: give --data NAME=FOLDER, once per modality.")
    check_modalities(config.modalities, data)
    check_names(config.data, data)
    step = find_state(folder)
    if step is not None:
        check_same_config(folder.config, config, folder)
        check_same_terms(method, folder)
    datasets = opened(data)
    notes = [line for dataset in datasets.values() for line in remarks(dataset)]
    kept = labelled_only(datasets)
    labelled = {m: list(dataset.cases) for m, dataset in kept.items()}
    if step is None:
        _begin(config, method, folder)
    split = _split(config, labelled, folder)
    plan = _plan(config, method, datasets, split, folder, source)
    cache = (how.cache or folder.files.prepared) / cache_key(plan)
    record = data_record(kept, plan, cache)
    used, digests = _used(kept, split), dict[str, str]()
    if step is not None:
        if folder.files.data.exists():
            check_same_data(read_json(folder.files.data), record, folder.root)
        named = all_inputs(datasets, config, folder, cases_of(used))
        digests, accepted = check_inputs(named, folder, step, how.accept_changes, progress)
        if SPLITS in accepted:
            split = make_split(config.data, labelled)
            write_splits(folder.files.splits, [split])
            used = _used(kept, split)
        _go_on(config, folder)
    else:
        check_network(config, method, plan, folder)
    with _alone(cache):
        crew = Workers(config.data.workers, config.train.heartbeat_seconds)
        found = prepare(used, plan, cache, crew, progress, digests)
    record_inputs(all_inputs(datasets, config, folder, cases_of(used)), folder, found)
    write_json(folder.files.data, record)
    folder.write_environment()
    notes += method.remarks(config, list(datasets))
    return [*notes, *(f"{loss.what(plan)}; {loss.mend()}." for loss in lost_classes(found, used))]


def labelled_only(datasets: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """The data sets without the cases that have no label.

    Raises:
        DataError: a modality has none with one.
    """
    kept = {
        m: replace(d, cases=tuple(c for c in d.cases if c.label is not None))
        for m, d in datasets.items()
    }
    for m, dataset in kept.items():
        if not dataset.cases:
            raise DataError(f"{dataset.root}: no case of {m} has a label to learn from.")
    return kept


def opened(data: Mapping[str, Path | str | Dataset]) -> dict[str, Dataset]:
    """The data sets, those of folders read.

    Raises:
        CasesError: one cannot be opened.
    """
    try:
        return {
            m: one if isinstance(one, Dataset) else open_dataset(m, Path(one))
            for m, one in data.items()
        }
    except DataError as error:
        raise CasesError(str(error)) from error


def source_plan(config: Config) -> Plan | None:
    """The plan of the run to start from: its grid and classes are kept.

    Raises:
        UsageError: it has no weights to start from.
    """
    if config.train.init_from is None:
        return None
    source = RunFolder(config.train.init_from)
    if not source.files.kept.is_file():
        raise UsageError(
            f"train.init_from={config.train.init_from} holds no checkpoints/kept.pt; give the "
            "folder of a run that has validated at least once."
        )
    return source.plan


def cases_of(datasets: Mapping[str, Dataset]) -> list[Case]:
    """The cases of all data sets."""
    return [case for dataset in datasets.values() for case in dataset.cases]


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
        make_folder(cache)
        held = lock.acquire()
    except OSError as error:
        raise cannot_write(cache, error) from error
    with held:
        yield


def _begin(config: Config, method: Method, folder: RunFolder) -> None:
    """A run without a state is planned anew from this call."""
    files = folder.files
    names = (files.splits, files.plan, files.pretrained, files.method, files.inputs, files.threads)
    for path in names:
        path.unlink(missing_ok=True)
    if (record := method.record()) is not None:
        write_json(files.method, record)
    write_text(files.config, to_toml(config))


def _go_on(config: Config, folder: RunFolder) -> None:
    """A run with a state goes on as it was."""
    if config.train.steps > (before := folder.config.train.steps):
        note_schedule(folder.files.log, before, config.train.steps)
    write_text(folder.files.config, to_toml(config))


def check_same_terms(method: Method, folder: RunFolder) -> None:
    """Raise UsageError where a run would go on with another loss."""
    path = folder.files.method
    try:
        before = read_json(path)["terms"] if path.is_file() else {}
        was = [f"{name} ({float(term['weight']):g})" for name, term in before.items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} is not what training writes ({error!r}). Restore it, or choose another --out."
        ) from error
    now = [f"{name} ({term.weight:g})" for name, term in method.added.items()]
    if was != now:
        raise UsageError(
            f"{folder.root} was trained with the added loss terms {', '.join(was) or 'none'}, this "
            f"call gives {', '.join(now) or 'none'}. Give the same method to go on, as in "
            "train(..., method=...), or choose another --out."
        )


def check_same_config(old: Config, new: Config, folder: RunFolder) -> None:
    """Raise UsageError where a run would go on under another configuration.

    More steps are no other configuration: the schedule then ends later.
    """
    free = {"train.steps"} if new.train.steps > old.train.steps else set()
    before, after = _flat(old.model_dump()), _flat(new.model_dump())
    changed = [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
        and key not in MAY_CHANGE | free
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
    if folder.files.splits.exists():
        return read_splits(folder.files.splits, cases)[0]
    split = make_split(config.data, cases)
    write_splits(folder.files.splits, [split])
    return split


def _plan(
    config: Config,
    method: Method,
    datasets: Mapping[str, Dataset],
    split: Split,
    folder: RunFolder,
    source: Plan | None,
) -> Plan:
    if folder.files.plan.exists():
        plan = folder.plan
        if plan.classes != class_names(datasets, config.data.classes) or set(
            plan.modalities
        ) != set(datasets):
            raise UsageError(
                f"{folder.root} was planned for other classes or modalities "
                f"({', '.join(plan.modalities)}: {', '.join(plan.classes)}). Choose another --out."
            )
        return plan
    plan = method.plan(config, datasets, split.train)
    if source is not None:
        plan = _like_source(method, plan, source)
    why = "Mirroring is switched off." if config.augment.mirror == "none" else mirror_axes(plan)[1]
    parts = {f"split.{m}": text for m, text in split.reasons.items()}
    chosen = read_json(folder.files.choices) if folder.files.choices.is_file() else {}
    reasons = {**plan.reasons, **parts, "mirror": why, **chosen}
    plan = plan.model_copy(update={"reasons": reasons})
    plan.write(folder.files.plan)
    return plan


def _like_source(method: Method, plan: Plan, source: Plan) -> Plan:
    """Keep the grid of the run to start from, and the intensities of the modalities it knows."""
    if plan.classes != source.classes:
        raise UsageError(
            f"train.init_from was trained on the classes {', '.join(source.classes)}, the data "
            f"hold {', '.join(plan.classes)}. Give both the same class names."
        )
    known = {m: source.modalities.get(m, part) for m, part in plan.modalities.items()}
    why = dict.fromkeys(("spacing_mm", "patch"), "as in the run that training starts from")
    kept = method.grid_of(source)
    return plan.model_copy(update={**kept, "modalities": known, "reasons": {**plan.reasons, **why}})


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            found.update(_flat(item, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = item
    return found
