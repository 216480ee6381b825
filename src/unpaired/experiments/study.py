"""What one call of `reproduce` is about: data, recipe, splits; and the runs that its rows need."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from unpaired.build import crop_rule, size_step
from unpaired.config import Config, config_from_toml, load_config, to_toml
from unpaired.data.dataset import Case, Dataset
from unpaired.data.plan import Plan
from unpaired.data.sources import open_dataset
from unpaired.data.split import Split, read_splits, write_splits
from unpaired.engine.draw import make_split
from unpaired.engine.setup import MAY_CHANGE
from unpaired.errors import UnpairedError, UsageError
from unpaired.experiments.rows import Experiment, Row
from unpaired.files import read_json, write_json, write_text

FREE = MAY_CHANGE | {"data.splits", "data.fold"}
"""Settings that are not part of a run's identity; the split itself is."""
DEFAULT = "as_trained"
CASE_SEED = 1000
"""Added to the seed of the start, so that the two are never one number."""
PARTS = ("train", "val", "test")
Ids = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Study:
    """Data and recipe of a call.

    Attributes:
        data: modality -> folder, the first and the second as the rows mean them.
        out: where everything goes.
        layers: preset, file and overrides of the recipe, as `load_config` takes them.
        redraw: a new random split for every seed, as the abdominal protocol has it; else one.
        grid: overrides that give every row the same grid, also those of one modality.
        cases: the labelled cases of each modality.
        forecast: pace and memory of a step of the whole recipe, measured once.
    """

    data: Mapping[str, Path]
    out: Path
    preset: str | None = None
    file: Path | None = None
    overrides: tuple[str, ...] = ()
    redraw: bool = True
    grid: tuple[str, ...] = ()
    cases: Mapping[str, Sequence[Case]] = field(default_factory=dict)
    forecast: Mapping[str, Any] = field(default_factory=dict)

    def recipe(self, *more: str, row: Row | None = None) -> Config:
        """The recipe with further overrides on top; for a row with a recipe of its own, that."""
        own = dict(row.recipes).get(self.preset or "") if row else None
        if own is None:
            return load_config(self.preset, self.file, [*self.overrides, *self.grid, *more])
        classes = [text for text in self.grid if text.startswith("data.classes=")]
        return load_config(own, self.file, [*self.overrides, *classes, *more])


@dataclass
class Job:
    """One training, and how it is tested.

    Attributes:
        tests: name -> overrides of the trained model before it is tested.
        rows: (row, seed) that read it.
    """

    folder: Path
    identity: str
    config: Config
    data: Mapping[str, Path]
    split: Split
    seed: int
    tests: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rows: list[tuple[str, int]] = field(default_factory=list)

    def record(self, test: str) -> Path:
        """Where the result of a test is stored."""
        return self.folder / f"record_{test}.json"

    @property
    def missing(self) -> list[str]:
        """Tests without a record."""
        return [test for test in self.tests if not self.record(test).exists()]


def open_study(study: Study) -> Study:
    """Read which cases there are, fix the grid, and hold the recipe against that of earlier calls.

    Raises:
        UsageError: the folder holds runs of another recipe or other data.
        DataError: the data are at fault.
    """
    from unpaired.engine.needs import training_needs

    datasets = {m: open_dataset(m, Path(root)) for m, root in study.data.items()}
    cases = {m: [c for c in d.cases if c.label is not None] for m, d in datasets.items()}
    base = study.recipe()
    path = study.out / "reproduce.json"
    before = read_json(path) if path.exists() else {"cases": {}, "grid": [], "forecast": {}}
    _check_cases(before["cases"], cases, study.out)
    if not before["grid"]:
        plan, ahead = training_needs(base, _only(datasets, cases), {})
        before |= {"grid": list(_grid(plan)), "forecast": asdict(ahead)}
    study = replace(study, cases=cases, grid=tuple(before["grid"]), forecast=before["forecast"])
    recipe = study.out / "recipe.toml"
    if recipe.exists():
        _check_recipe(config_from_toml(recipe), study.recipe(), study.out)
    else:
        write_text(recipe, to_toml(study.recipe()))
    known = {**before["cases"], **{m: [c.id for c in found] for m, found in cases.items()}}
    write_json(path, {**before, "cases": known})
    return study


def _only(datasets: Mapping[str, Dataset], cases: Mapping[str, list[Case]]) -> dict[str, Dataset]:
    return {m: replace(d, cases=tuple(cases[m])) for m, d in datasets.items()}


def _grid(plan: Plan) -> tuple[str, ...]:
    """Classes and grid of all modalities together: a row of one would have its own."""
    spacing = ", ".join(f"{value!r}" for value in plan.spacing_mm)
    return (
        f"data.classes={json.dumps(plan.classes[1:])}",
        f"data.spacing_mm=[{spacing}]",
        f"data.slice_axis={plan.slice_axis}",
        f"data.patch={list(plan.patch)}",
    )


def _check_cases(
    before: Mapping[str, Sequence[str]], now: Mapping[str, Sequence[Case]], out: Path
) -> None:
    for m, found in now.items():
        if m in before and list(before[m]) != [case.id for case in found]:
            other = sorted(set(before[m]) ^ {case.id for case in found})
            raise UsageError(
                f"{out} holds runs on other data: {m} differs in the cases "
                f"{', '.join(other[:5])}. Give the same data, or another --out."
            )


def _check_recipe(old: Config, new: Config, out: Path) -> None:
    """One folder, one recipe: rows of a table must not be trained by different ones."""
    before, after = facts_of(old), facts_of(new)
    changed = [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    if changed:
        raise UsageError(
            f"{out} holds runs of another recipe ({'; '.join(changed)}). Give the same values to "
            "go on, or another --out to begin anew."
        )


def modalities_of(experiment: Experiment, study: Study) -> tuple[str, ...]:
    """The modalities that an experiment reads, in the order of --data.

    Raises:
        UsageError: there are too few.
    """
    names = tuple(study.data)
    if len(names) < experiment.modalities:
        raise UsageError(
            f"{experiment.name} needs {experiment.modalities} modalities, --data gives "
            f"{len(names)} ({', '.join(names)}). Add --data NAME=FOLDER."
        )
    return names if experiment.modalities > 2 else names[:2]


def plan_jobs(
    experiment: Experiment, study: Study, seeds: Sequence[int], rows: Sequence[Row]
) -> tuple[dict[str, Job], dict[str, str]]:
    """The runs that rows need, each once, and rows that cannot be run with the reason.

    Returns:
        (identity -> job, row name -> why it is not run).
    """
    names = modalities_of(experiment, study)
    jobs: dict[str, Job] = {}
    reasons: dict[str, str] = {}
    for seed in seeds:
        split = _split(study, names, seed)
        for row in rows:
            for group in [names] if row.who == "all" else [(m,) for m in names]:
                try:
                    job = _job(study, row, names, group, split, seed)
                except UnpairedError as error:
                    reasons[row.name] = str(error)
                    continue
                job = jobs.setdefault(job.identity, job)
                job.tests[record_name(row)] = row.at_test
                job.rows.append((row.name, seed))
    return jobs, reasons


def record_name(row: Row) -> str:
    """Names of the records of a run."""
    return "_".join(text.replace("=", "_").replace(".", "_") for text in row.at_test) or DEFAULT


def _job(
    study: Study, row: Row, names: Sequence[str], group: Sequence[str], split: Split, seed: int
) -> Job:
    seeds = (*_shots(row, names, seed), f"train.seed={seed}")
    config = study.recipe(*row.overrides, *seeds, row=row)
    size_step(config, config.data.dims)  # refuses what is not registered
    crop_rule(config)  # and a network of volumes on slices
    train, val, test = ({m: part.get(m, ()) for m in group} for part in _parts(split))
    own = Split(train, val, test)
    identity = _identity(config, own)
    path = study.out / "splits" / f"{'_'.join(group)}-{_digest(listed(own))[:8]}.json"
    if not path.exists():
        write_splits(path, [own])
    label = f"{'_'.join(group)}-{_label(config)}-s{seed}"
    folder = study.out / "runs" / f"{label}-{identity[:8]}"
    data = config.data.model_copy(update={"splits": str(path), "fold": 0, "cases": {}})
    roots = {m: study.data[m] for m in group}
    return Job(folder, identity, config.model_copy(update={"data": data}), roots, own, seed)


def _label(config: Config) -> str:
    name = str(getattr(config.model, "name", ""))
    return name if name in ("ummkd", "payer", "valindria") else config.model.variant


def _shots(row: Row, names: Sequence[str], seed: int) -> list[str]:
    """Few-shot settings; the seed of the case is another number than the seed of the start."""
    if row.shots is None:
        return []
    role, count = row.shots
    return [f"data.few_shot.{names[role]}={count}", f"data.few_shot_seed={CASE_SEED + seed}"]


def _split(study: Study, names: Sequence[str], seed: int) -> Split:
    """One split for all rows of a seed, over all modalities of the experiment."""
    options = study.recipe().data
    changed: dict[str, Any] = {"few_shot": {}}
    if study.redraw and options.splits is None:
        changed["split_seed"] = options.split_seed + seed
    if study.redraw and options.splits is not None:
        changed["fold"] = seed % len(read_splits(Path(options.splits), study.cases))
    return make_split(options.model_copy(update=changed), {m: study.cases[m] for m in names})


def _parts(split: Split) -> tuple[Ids, Ids, Ids]:
    return split.train, split.val, split.test


def _identity(config: Config, split: Split) -> str:
    """Equal for, and only for, runs that compute the same."""
    return _digest({"config": _chosen(config), "split": listed(split)})


def facts_of(config: Config) -> dict[str, Any]:
    """The settings that decide what a run computes and how it is scored, by full name."""
    return _bound(config.model_dump(mode="json"))


def _chosen(config: Config) -> dict[str, Any]:
    """Of these the ones that are not the default: a setting that is new later changes no name."""
    return _bound(config.model_dump(mode="json", exclude_defaults=True))


def _bound(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in _flat(content).items() if key not in FREE}


def listed(split: Split) -> dict[str, dict[str, list[str]]]:
    """Case ids by part and modality."""
    names = ("train", "val", "test")
    return {
        n: {m: list(i) for m, i in p.items()} for n, p in zip(names, _parts(split), strict=True)
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict) and item:
            found.update(_flat(item, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = item
    return found
