"""One run from start to record: train (or go on), test on both grids, write what is kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from unpaired.artifact.safetensors import save_model
from unpaired.build import build_joint
from unpaired.config import Config, config_from_toml
from unpaired.config.load import parse_override
from unpaired.data.cache import open_prepared
from unpaired.data.plan import Plan
from unpaired.errors import UsageError
from unpaired.evaluation.prior import location_floor
from unpaired.evaluation.run import NATIVE, read_recorded, score_both
from unpaired.evaluation.tables import Evaluation, write_evaluation
from unpaired.experiments.jobs import DEFAULT, Job, listed
from unpaired.experiments.record import Record, named_settings, write_record
from unpaired.files import read_json, write_json
from unpaired.models import gains_form
from unpaired.run import RunFolder, describe_environment
from unpaired.training.checkpoint import load_checkpoint
from unpaired.training.fit import train
from unpaired.training.log import read_log
from unpaired.training.start import load_matching, parameter_counts

WAIT_SECONDS = 600.0
"""For a run that a call before this one is just ending."""
Progress = Callable[[int, int, str], None]


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
    ended = train(_as_begun(job.config, folder), job.data, job.folder, progress, prepared)
    if ended.stopped == "max_minutes":  # a record would pass for that of a whole training
        raise UsageError(
            f"train.max_minutes stopped {job.folder} at step {ended.step} of "
            f"{job.config.train.steps}; everything is saved. Give a larger one to go on."
        )
    for test in missing:
        began = monotonic()
        model = _export(job, folder, test)
        scores = score_both(job.folder, device=job.config.train.device, model=model)
        took = monotonic() - began
        floor = _floor(job.folder)
        if test == DEFAULT:  # for `unpaired report` and `unpaired compare`
            tolerance = job.config.evaluate.tolerance_mm
            native = Evaluation(tuple(scores[NATIVE]), tolerance_mm=tolerance)
            write_evaluation(native, job.folder / "evaluation")
            write_json(job.folder / "floor.json", floor)
        record = _record(job, folder, test, scores, took)
        write_record(job.record(test), replace(record, floor=floor))


def _as_begun(config: Config, folder: RunFolder) -> Config:
    """A run that goes on keeps the name of its splits file: the study's folder may have moved, or
    be named otherwise in this call. The split itself is part of the run's identity."""
    if not folder.last.exists():
        return config
    splits = config_from_toml(folder.config).data.splits
    return config.model_copy(update={"data": config.data.model_copy(update={"splits": splits})})


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
    plan = Plan.read(folder.plan)
    path = folder.kept if folder.kept.exists() else folder.last
    joint = build_joint(config, plan)
    load_matching(joint, load_checkpoint(path)["model"], path)
    target = folder.root / f"model_{test}"
    save_model(gains_form(joint.eval(), config.model.scaling_at_test), config, plan, target, {})
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
        {"step": r["step"], "score": r["score"], "mean": r["mean"]}
        for r in read_log(folder.log)
        if r["kind"] == "validation"
    ]
    last = [r["seconds"] for r in read_log(folder.log) if "seconds" in r]
    about = describe_environment()
    about.pop("command")
    return Record(
        identity=job.identity,
        test=test,
        modalities=tuple(job.data),
        settings=named_settings(job.config),
        split=listed(read_recorded(job.folder).split),
        scores=scores,
        floor={},
        parameters=_parameters(job.config, folder),
        seconds={"train": round(last[-1], 1) if last else 0.0, "test": round(test_seconds, 1)},
        curve=curve,
        environment=about,
    )


def _floor(run: Path) -> dict[str, dict[str, float]]:
    """What position alone scores on the test cases."""
    record = read_recorded(run)
    cached = open_prepared(record.prepared).cases

    def labels(part: Mapping[str, Sequence[str]]) -> dict[str, list[Any]]:
        return {m: [c.label() for c in cases if c.id in part.get(m, ())]
                for m, cases in cached.items()}  # fmt: skip

    return location_floor(labels(record.split.train), labels(record.split.test), record.classes)


def _parameters(config: Config, folder: RunFolder) -> dict[str, int]:
    """In training and at test."""
    extra = read_json(folder.model / "model.json").get("extra", {})
    counts: dict[str, int] | None = extra.get("parameters")
    return counts or parameter_counts(build_joint(config, Plan.read(folder.plan)))
