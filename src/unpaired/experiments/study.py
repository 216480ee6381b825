"""What one call of `reproduce` is about: data, recipe and grid, the same for all rows."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from unpaired.config import Config, config_from_toml, load_config, preset_name, to_toml
from unpaired.data.plan import Plan
from unpaired.datasets.dataset import Case, Dataset
from unpaired.datasets.make_split import check_modalities
from unpaired.datasets.sources import open_dataset
from unpaired.errors import UsageError
from unpaired.experiments.earlier import check_grid, check_recipe, check_scans, check_weights
from unpaired.experiments.paper import (
    check_papers,
    in_order,
    is_papers,
    printed_names,
    protocol_of,
)
from unpaired.experiments.record import settings_of
from unpaired.experiments.rows import ABDOMEN, HEART, PRINTED, Experiment, Row, as_overrides
from unpaired.files import read_json, sha256_of, write_json, write_text
from unpaired.leftovers import sweep
from unpaired.methods import METHODS
from unpaired.phantom import write_phantom
from unpaired.progress import Progress

GRID = ("classes", "spacing_mm", "slice_axis", "patch")
"""Settings of `data` that are the same for all rows."""
PHANTOM_LEVEL = "benchmark"
PHANTOM_MODALITIES = ("ct", "mr", "t1")
CASES, QUICK_CASES = 32, 8
"""Of each modality of the phantom, and for a smoke test."""
QUICK_STEPS = ("train.steps=60", "train.steps_per_epoch=30", "train.warmup_steps=10")
QUICK_SPLIT = ("data.split=[0.5, 0.25, 0.25]",)
AS_PRINTED = (HEART, ABDOMEN, "abdomen-2d")
"""Presets with the paper's consistency."""
OTHER_DATA = {ABDOMEN: ("data.dims=3", "model.backbone=nnformer", "train.batch_size=2")}
"""Preset for the paper's data -> what data without a recipe have of it: the table's network."""
SMOKE = "A smoke test: the budget is far too small to compare rows."


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
        network: overrides that give data without a recipe the table's network.
        weights: the sha256 of the file that rows with a backbone start from; empty for none.
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
    network: tuple[str, ...] = ()
    weights: str = ""

    def recipe(self, *more: str, row: Row | None = None) -> Config:
        """The recipe with further overrides on top; for a row with a recipe of its own, that.

        Of a row whose network takes no weights of others, without those that the study names.
        """
        name = preset_name(self.preset or "")
        own = dict(row.recipes).get(name) if row else None
        under = self.network
        if row and row.ours and name in AS_PRINTED:
            defaults = settings_of(Config())
            under += as_overrides({key: defaults[key] for key in PRINTED})
        if own is None:
            layers = (self.preset, [*self.overrides, *self.grid, *more])
        else:
            classes = [text for text in self.grid if text.startswith("data.classes=")]
            layers = (own, [*self.overrides, *classes, *more])
        config = load_config(layers[0], self.file, layers[1], over_preset=under)
        if row and config.model.name in METHODS and METHODS[config.model.name].from_scratch:
            bare = config.model.model_copy(update={"pretrained": None})
            return config.model_copy(update={"model": bare})
        return config


def new_study(experiment: Experiment, request: Request, progress: Progress | None = None) -> Study:
    """The study of a request, not yet opened; missing scans of the phantom are made.

    Args:
        progress: called with (done, all, case) for each scan that was made.

    Raises:
        UsageError: too few modalities, or data that are not the paper's though --paper says so.
    """
    protocol: tuple[str, ...] = ()
    preset, names = None, dict[str, str]()
    if request.paper:
        check_papers(experiment, request.data)
    if request.data is not None:
        data = in_order(request.data)
        check_modality_count(experiment, data)
        if request.paper or is_papers(experiment, data):
            preset, names = experiment.preset, printed_names(data)
            protocol = protocol_of(experiment, data)
    else:
        data, preset = {}, experiment.phantom
        protocol = QUICK_SPLIT if request.quick else ()
    chosen = request.preset or (None if request.file else preset)
    bare = chosen is None and request.file is None
    study = Study(
        data,
        request.out,
        chosen,
        request.file,
        (*protocol, *(QUICK_STEPS if request.quick else ()), *request.overrides),
        redraw=request.data is not None and not request.one_split,
        printed=names,
        notes=(SMOKE,) if request.quick else (),
        network=OTHER_DATA.get(experiment.preset or "", ()) if bare else (),
    )
    _weights_of(study.recipe())  # a file that is not there, before scans are made
    if data:
        return study
    return replace(study, data=_phantom(experiment.modalities, request, progress))


def check_modality_count(experiment: Experiment, names: Collection[str]) -> None:
    """Raise UsageError where an experiment needs more modalities than there are."""
    if len(names) < experiment.modalities:
        raise UsageError(
            f"{experiment.name} needs {experiment.modalities} modalities, --data gives "
            f"{len(names)} ({', '.join(names)}). Add --data NAME=FOLDER."
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
    datasets = {m: open_dataset(m, Path(root)) for m, root in study.data.items()}
    cases = {m: [c for c in d.cases if c.label is not None] for m, d in datasets.items()}
    base = study.recipe()
    check_modalities(base.modalities, datasets)
    asked = {key: base.model_dump(mode="json")["data"][key] for key in GRID}
    path = study.out / "reproduce.json"
    sweep(study.out, deep=True)
    before = read_json(path) if path.exists() else {"grid": [], "forecast": {}}
    marks = check_scans(before.get("scans", {}), cases, study.out)
    weights = _weights_of(base)
    if not before["grid"]:
        labelled = {m: replace(d, cases=tuple(cases[m])) for m, d in datasets.items()}
        with limited_threads(base.train.threads or threads):
            before |= _first_plan(base, labelled)
        before |= {"asked": asked, "weights": weights}
    check_grid(before.get("asked", {}), asked, study.out)
    check_weights(before.get("weights", ""), weights, study.out)
    study = replace(
        study,
        cases=cases,
        grid=tuple(before["grid"]),
        forecast=before["forecast"],
        weights=weights,
    )
    recipe = study.out / "recipe.toml"
    if recipe.exists():
        check_recipe(config_from_toml(recipe), study.recipe(), study.out)
    else:
        write_text(recipe, to_toml(study.recipe()))
    write_json(path, {**before, "scans": {**before.get("scans", {}), **marks}}, seal=True)
    return study


def _first_plan(base: Config, labelled: Mapping[str, Dataset]) -> dict[str, Any]:
    """The grid for all rows and what a step takes, to be kept; weights that do not fit are refused.

    Raises:
        UsageError, DataError: the data, the recipe or the file of weights is at fault.
    """
    from unpaired.training.forecast import training_needs
    from unpaired.training.pretrained import preview, read_pretrained

    weights = read_pretrained(base)
    plan, needs = training_needs(base, labelled, {})
    if weights is not None:
        preview(base, plan, weights)
    return {"grid": list(_grid(plan)), "forecast": {**asdict(needs), "modalities": len(labelled)}}


def _weights_of(base: Config) -> str:
    """The sha256 of the file that the rows start from; empty where they start at random."""
    from unpaired.training.pretrained import check_there

    if base.model.pretrained is None:
        return ""
    check_there(Path(base.model.pretrained))
    return sha256_of(Path(base.model.pretrained))


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
