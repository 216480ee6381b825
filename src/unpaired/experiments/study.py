"""What one call of `reproduce` is about: data, recipe and grid, the same for all rows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from unpaired.config import Config, config_from_toml, load_config, to_toml
from unpaired.data.plan import Plan
from unpaired.datasets.dataset import Case, Dataset
from unpaired.datasets.sources import open_dataset
from unpaired.errors import UsageError
from unpaired.experiments.facts import facts_of
from unpaired.experiments.rows import Experiment, Row
from unpaired.experiments.scans import check_scans
from unpaired.files import read_json, write_json, write_text

GRID = ("classes", "spacing_mm", "slice_axis", "patch")
"""Settings of `data` that are the same for all rows."""


@dataclass(frozen=True)
class Study:
    """Data and recipe of a call.

    Attributes:
        data: modality -> folder, the first and the second as the rows mean them.
        out: where everything goes.
        preset, file, overrides: layers of the recipe, as `load_config` takes them.
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


def open_study(study: Study, threads: int = 1) -> Study:
    """Read which cases there are, fix the grid, and hold the recipe against that of earlier calls.

    Args:
        threads: what a run will have, for the forecast of its pace.

    Raises:
        UsageError: the folder holds runs of another recipe or other data.
        DataError: the data are at fault.
    """
    from unpaired.training.forecast import training_needs

    datasets = {m: open_dataset(m, Path(root)) for m, root in study.data.items()}
    cases = {m: [c for c in d.cases if c.label is not None] for m, d in datasets.items()}
    base = study.recipe()
    path = study.out / "reproduce.json"
    before = read_json(path) if path.exists() else {"grid": [], "forecast": {}}
    scans = check_scans(before.get("scans", {}), cases, study.out)
    if not before["grid"]:
        with _threads(base.train.threads or threads):
            plan, ahead = training_needs(base, _only(datasets, cases), {})
        measured = {**asdict(ahead), "modalities": len(datasets)}
        before |= {"grid": list(_grid(plan)), "forecast": measured, "asked": _asked(base)}
    _check_asked(before.get("asked", {}), _asked(base), study.out)
    study = replace(study, cases=cases, grid=tuple(before["grid"]), forecast=before["forecast"])
    recipe = study.out / "recipe.toml"
    if recipe.exists():
        _check_recipe(config_from_toml(recipe), study.recipe(), study.out)
    else:
        write_text(recipe, to_toml(study.recipe()))
    write_json(path, {**before, "scans": {**before.get("scans", {}), **scans}})
    return study


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def _asked(config: Config) -> dict[str, Any]:
    """What a call says of the grid, as `reproduce.json` keeps it."""
    return {key: config.model_dump(mode="json")["data"][key] for key in GRID}


def _check_asked(old: Mapping[str, Any], new: Mapping[str, Any], out: Path) -> None:
    """The grid is fixed by the first call; a later one that asks for another must not be silent."""
    changed = [
        f"data.{key}: {old[key]!r} -> {new[key]!r}" for key in old if old[key] != new.get(key)
    ]
    if changed:
        raise UsageError(
            f"{out} holds runs on another grid ({'; '.join(changed)}). Give the same values to go "
            "on, or another --out to begin anew."
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
