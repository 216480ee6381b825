"""One run from start to record: train (or go on), test on both grids, write what is kept."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from unpaired.artifact.model import Model
from unpaired.config import Config
from unpaired.config.load import parse_override
from unpaired.errors import UsageError
from unpaired.evaluation.evaluate import NATIVE, evaluate_both_grids
from unpaired.evaluation.prior import run_floor
from unpaired.experiments.jobs import DEFAULT, Job, listed
from unpaired.experiments.record import Record, named_settings, write_record
from unpaired.files import read_json, write_json
from unpaired.methods import method_of
from unpaired.models import gains_form
from unpaired.progress import Progress
from unpaired.run import RunFolder, describe_environment
from unpaired.run.log import read_log
from unpaired.run.scores import write_evaluation
from unpaired.training.checkpoint import load_checkpoint, load_matching
from unpaired.training.fit import train
from unpaired.training.forecast import parameter_counts

WAIT_SECONDS = 600.0
"""For a run that a call before this one is just ending."""


def execute(job: Job, prepared: Path, progress: Progress | None = None) -> None:
    """Do what is missing of a job; a record that is there is not made again.

    Raises:
        UnpairedError: as training and testing do; Interrupted when a signal came; UsageError when
            the time limit did: what is tested and recorded are whole trainings.
    """
    missing = job.missing
    if not missing:
        return
    folder = RunFolder(job.folder)
    _wait_for(folder)
    ended = train(_as_begun(job.config, folder), job.data, job.folder, prepared, progress=progress)
    if ended.stopped == "max_minutes":  # a record would pass for that of a whole training
        raise UsageError(
            f"train.max_minutes stopped {job.folder} at step {ended.step} of "
            f"{job.config.train.steps}; everything is saved. Give a larger one to go on."
        )
    for test in missing:
        began = monotonic()
        model, device = _export(job, folder, test), job.config.train.device
        grids = evaluate_both_grids(job.folder, device=device, model=model)
        took = monotonic() - began
        floor = run_floor(folder)
        if test == DEFAULT:  # for `unpaired report` and `unpaired compare`
            write_evaluation(grids[NATIVE], job.folder / "evaluation")
            write_json(job.folder / "floor.json", floor, seal=True)
        scores = {grid: list(one.scores) for grid, one in grids.items()}
        record = _record(job, folder, test, scores, took)
        write_record(job.record(test), replace(record, floor=floor))


def _as_begun(config: Config, folder: RunFolder) -> Config:
    """A run that goes on keeps the names of its files, of the splits and of weights to start from:
    the folders may have moved, or be named otherwise in this call. What the files hold is part of
    the run's identity."""
    if not folder.begun:
        return config
    before = folder.config
    data = config.data.model_copy(update={"splits": before.data.splits})
    model = config.model.model_copy(update={"pretrained": before.model.pretrained})
    return config.model_copy(update={"data": data, "model": model})


def _wait_for(folder: RunFolder) -> None:
    """Until nobody holds the run; training itself refuses if that takes too long."""
    until = monotonic() + WAIT_SECONDS
    while monotonic() < until:
        try:
            with folder.lock():
                return
        except UsageError:
            sleep(0.2)


def _export(job: Job, folder: RunFolder, test: str) -> Path | None:
    """The model of a test that changes it: exported anew from the kept weights."""
    if test == DEFAULT:
        return None
    config = _changed(job.config, job.tests[test])
    plan, path = folder.plan, folder.files.weights
    joint = method_of(config).joint(config, plan)
    load_matching(joint, load_checkpoint(path)["model"], path)
    target = folder.root / f"model_{test}"
    kept = gains_form(joint.eval(), config.model.scaling_at_test)
    Model(kept, plan, config).save(target, {})
    return target


def _changed(config: Config, overrides: tuple[str, ...]) -> Config:
    """The run's configuration with a few settings on top."""
    content: dict[str, Any] = config.model_dump()
    for text in overrides:
        for section, values in parse_override(text).items():
            content[section] = {**content[section], **values}
    return Config.model_validate(content)


def _record(
    job: Job, folder: RunFolder, test: str, scores: Mapping[str, Any], test_seconds: float
) -> Record:
    curve = [
        {"step": r["step"], "score": r["score"], "mean": r["mean"]} for r in folder.validations
    ]
    last = [r["seconds"] for r in read_log(folder.files.log) if "seconds" in r]
    about = describe_environment()
    about.pop("command")
    return Record(
        identity=job.identity,
        test=test,
        modalities=tuple(job.data),
        settings=named_settings(job.config),
        split=listed(folder.split),
        scores=scores,
        floor={},
        parameters=_parameters(job.config, folder),
        seconds={"train": round(last[-1], 1) if last else 0.0, "test": round(test_seconds, 1)},
        curve=curve,
        environment=about,
        pretrained=_filled(folder),
    )


def _filled(folder: RunFolder) -> dict[str, Any]:
    """What a file of weights filled at the run's start."""
    path = folder.files.pretrained
    if not path.is_file():
        return {}
    filled = read_json(path)
    name = Path(filled["file"]).name  # a record goes where the folders do not
    return {"file": name, "layout": filled["layout"], "percent": round(filled["percent"], 1)}


def _parameters(config: Config, folder: RunFolder) -> dict[str, int]:
    """In training and at test."""
    extra = read_json(folder.files.model / "model.json").get("extra", {})
    counts: dict[str, int] | None = extra.get("parameters")
    return counts or parameter_counts(method_of(config).joint(config, folder.plan))
