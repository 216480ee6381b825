"""What one call of `reproduce` is about: data, recipe and grid, the same for all rows."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from unpaired.config import Config, config_from_toml, load_config, preset_name, to_toml
from unpaired.data.plan import Plan
from unpaired.datasets.dataset import Case, source_files
from unpaired.datasets.sources import open_dataset
from unpaired.errors import UsageError
from unpaired.experiments.paper import in_order, is_papers, printed_names, protocol_of
from unpaired.experiments.record import changes, settings_of
from unpaired.experiments.rows import Experiment, Row
from unpaired.files import read_json, sha256_of, write_json, write_text
from unpaired.leftovers import sweep
from unpaired.phantom import write_phantom
from unpaired.progress import Progress

GRID = ("classes", "spacing_mm", "slice_axis", "patch")
"""Settings of `data` that are the same for all rows."""
PHANTOM_PRESET, PHANTOM_LEVEL = "phantom-benchmark", "benchmark"
PHANTOM_MODALITIES = ("ct", "mr", "t1")
CASES, QUICK_CASES = 32, 8
"""Of each modality of the phantom, and for a smoke test."""
QUICK_STEPS = ("train.steps=60", "train.steps_per_epoch=30", "train.warmup_steps=10")
QUICK_SPLIT = ("data.split=[0.5, 0.25, 0.25]",)
SMOKE = "A smoke test: the budget is far too small to compare rows."
Marks = dict[str, dict[str, list[str]]]
"""modality -> case -> [mark of paths, sizes and times; mark of the contents]."""


@dataclass(frozen=True)
class Request:
    """What is asked for, as the command line takes it.

    Attributes:
        data: modality -> folder; None for scans of the phantom, which are made.
        out: where everything goes.
        preset, file, overrides: layers of the recipe, as `load_config` takes them.
        quick: a smoke test: few scans, few steps.
        one_split: the same split for all seeds.
        paper: these are the paper's data, even if they were not imported as such.
    """

    data: Mapping[str, Path] | None
    out: Path
    preset: str | None = None
    file: Path | None = None
    overrides: tuple[str, ...] = ()
    quick: bool = False
    one_split: bool = False
    paper: bool = False


@dataclass(frozen=True)
class Study:
    """Data and recipe of a call.

    Attributes:
        data: modality -> folder, the first and the second as the rows mean them.
        out: where everything goes.
        preset, file, overrides: layers of the recipe, as `load_config` takes them.
        redraw: a new random split for every seed, as the abdominal protocol has it; else one.
        printed: modality -> its name in the paper, on the paper's data.
        notes: what a reader of the results must know, one sentence each.
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
    printed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    grid: tuple[str, ...] = ()
    cases: Mapping[str, Sequence[Case]] = field(default_factory=dict)
    forecast: Mapping[str, Any] = field(default_factory=dict)

    def recipe(self, *more: str, row: Row | None = None) -> Config:
        """The recipe with further overrides on top; for a row with a recipe of its own, that."""
        own = dict(row.recipes).get(preset_name(self.preset or "")) if row else None
        if own is None:
            return load_config(self.preset, self.file, [*self.overrides, *self.grid, *more])
        classes = [text for text in self.grid if text.startswith("data.classes=")]
        return load_config(own, self.file, [*self.overrides, *classes, *more])


def new_study(experiment: Experiment, request: Request, progress: Progress | None = None) -> Study:
    """The study of a request, not yet opened; missing scans of the phantom are made.

    Args:
        progress: called with (done, all, case) for each scan that was made.
    """
    protocol: tuple[str, ...] = ()
    preset, names = None, dict[str, str]()
    if request.data is not None:
        data = in_order(request.data)
        if request.paper or is_papers(experiment, data):
            preset, names = experiment.preset, printed_names(data)
            protocol = protocol_of(experiment, data)
    else:
        data, preset = _phantom(experiment.modalities, request, progress), PHANTOM_PRESET
        protocol = QUICK_SPLIT if request.quick else ()
    return Study(
        data,
        request.out,
        request.preset or (None if request.file else preset),
        request.file,
        (*protocol, *(QUICK_STEPS if request.quick else ()), *request.overrides),
        redraw=request.data is not None and not request.one_split,
        printed=names,
        notes=(SMOKE,) if request.quick else (),
    )


def _phantom(modalities: int, request: Request, progress: Progress | None) -> dict[str, Path]:
    """Modality -> its folder, with the scans that were missing."""
    cases = QUICK_CASES if request.quick else CASES
    counts = dict.fromkeys(PHANTOM_MODALITIES[:modalities], cases)
    folder = request.out / ("data_quick" if request.quick else "data")
    return write_phantom(folder, counts, level=PHANTOM_LEVEL, seed=0, progress=progress)


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
    asked = {key: base.model_dump(mode="json")["data"][key] for key in GRID}
    path = study.out / "reproduce.json"
    sweep(study.out, deep=True)
    before = read_json(path) if path.exists() else {"grid": [], "forecast": {}}
    marks = check_scans(before.get("scans", {}), cases, study.out)
    if not before["grid"]:
        labelled = {m: replace(d, cases=tuple(cases[m])) for m, d in datasets.items()}
        with limited_threads(base.train.threads or threads):
            plan, needs = training_needs(base, labelled, {})
        forecast = {**asdict(needs), "modalities": len(datasets)}
        before |= {"grid": list(_grid(plan)), "forecast": forecast, "asked": asked}
    _check_grid(before.get("asked", {}), asked, study.out)
    study = replace(study, cases=cases, grid=tuple(before["grid"]), forecast=before["forecast"])
    recipe = study.out / "recipe.toml"
    if recipe.exists():
        check_recipe(config_from_toml(recipe), study.recipe(), study.out)
    else:
        write_text(recipe, to_toml(study.recipe()))
    write_json(path, {**before, "scans": {**before.get("scans", {}), **marks}}, seal=True)
    return study


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """So many for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _grid(plan: Plan) -> tuple[str, ...]:
    """Classes and grid of all modalities together: a row of one would have its own."""
    spacing = ", ".join(f"{value!r}" for value in plan.spacing_mm)
    return (
        f"data.classes={json.dumps(plan.classes[1:])}",
        f"data.spacing_mm=[{spacing}]",
        # Oblique scans keep their planes by themselves; an axis would cut across them.
        f"data.slice_axis={'auto' if plan.oblique else plan.slice_axis}",
        f"data.patch={list(plan.patch)}",
    )


def _check_grid(old: Mapping[str, Any], new: Mapping[str, Any], out: Path) -> None:
    """The grid is fixed by the first call; a later one that asks for another must not be silent."""
    before, now = ({f"data.{k}": v for k, v in side.items()} for side in (old, new))
    if changed := changes(before, now, before):
        raise UsageError(
            f"{out} holds runs on another grid ({changed}). Give the same values to go on, or "
            "another --out to begin anew."
        )


def check_recipe(old: Config, new: Config, out: Path) -> None:
    """One folder, one recipe: rows of a table must not be trained by different ones."""
    before, now = settings_of(old), settings_of(new)
    if changed := changes(before, now, sorted(before.keys() | now.keys())):
        raise UsageError(
            f"{out} holds runs of another recipe ({changed}). Give the same values to go on, or "
            "another --out to begin anew."
        )


def check_scans(
    before: Mapping[str, Mapping[str, Sequence[str]]],
    now: Mapping[str, Sequence[Case]],
    out: Path,
) -> Marks:
    """The marks of the scans and labels of this call; files are read only if they look new.

    Args:
        before: the marks of earlier calls.

    Raises:
        UsageError: there are other cases, or other contents under the same names.
    """
    marks: Marks = {}
    for m, cases in now.items():
        old = before.get(m, {})
        if old and list(old) != [case.id for case in cases]:
            other = sorted(set(old) ^ {case.id for case in cases})
            _refuse(out, f"{m} differs in the cases {', '.join(other[:5])}")
        marks[m] = {case.id: _mark(case) for case in cases}
        changed = [i for i, mark in marks[m].items() if i in old and old[i][1] != mark[1]]
        if changed:
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            _refuse(out, f"the files of {', '.join(changed[:5])}{more} ({m}) have changed since")
    return marks


def _mark(case: Case) -> list[str]:
    """Where and how large the files are, and what they hold: neither size nor time tells that."""
    files = source_files(case)
    return [_digest(files), _digest([sha256_of(Path(file["path"])) for file in files])]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _refuse(out: Path, what: str) -> None:
    raise UsageError(
        f"{out} holds runs on other data: {what}. Give the same data, or another --out."
    )
