"""The two tools as commands: prepared, trained within a budget, asked for labels."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from commands import Cost, run
from raw import Raw, raw_sets, write_raw
from rows import Job

from unpaired.datasets.dataset import Dataset
from unpaired.datasets.split_file import Split
from unpaired.files import read_json, write_json
from unpaired.run.log import read_log
from unpaired.training.planner import is_planned

PEER = Path(__file__).with_name("peer.py")


@dataclass(frozen=True)
class Study:
    """What all trainings of a comparison share.

    Attributes:
        roots: modality -> the folder of its data set.
        split_file: one fold, ids as "modality/case".
        out: everything that is not stored lies here.
        through: put before every command.
    """

    roots: Mapping[str, Path]
    datasets: Mapping[str, Dataset]
    split: Split
    split_file: Path
    out: Path
    through: Sequence[str] = field(default=())

    def images(self, modality: str, part: str) -> Path:
        """The folder of images to predict."""
        return self.out / part / modality

    def of(self, job: Job) -> Path:
        """The folder of a job."""
        return self.out / "runs" / job.name


def once(report: Path, work: Any) -> dict[str, Any]:
    """What `work()` gives, kept in `report`; read from there where it is."""
    if not report.exists():
        write_json(report, work(), seal=True)
    return read_json(report)


@dataclass(frozen=True)
class NnUnet:
    """nnU-Net in an environment of its own.

    Attributes:
        python: of that environment.
    """

    python: Path
    study: Study

    def prepare(self, job: Job) -> dict[str, Any]:
        """Fingerprint, plan and preprocessed cases: once a data set and setting, for all seeds."""
        report = self._home(job) / f"{job.network}.json"
        return once(report, lambda: self._prepare(job, report))

    def _prepare(self, job: Job, report: Path) -> dict[str, Any]:
        raw = self._raw(job)
        write_raw(raw, self.study.datasets, self.study.split, self._home(job) / "raw")
        return self._call("prepare", job, report.with_suffix(""), {})

    def train(self, job: Job) -> dict[str, Any]:
        """Trained for the budget; one that was stopped begins anew."""
        folder = self.study.of(job)
        more = {
            "seed": job.seed,
            "budget_seconds": 60 * job.minutes,
            "optimizer": job.row.optimizer,
        }
        return once(folder / "train.json", lambda: self._call("train", job, folder, more))

    def predict(self, job: Job, out: Path, mirror: bool = True) -> dict[str, Any]:
        """Labels of the test cases, in `out/<modality>`.

        Args:
            mirror: the mean over all mirrorings, nnU-Net's default.
        """
        images = [str(self.study.images(m, job.part)) for m in job.modalities]
        labels = [str(out / m) for m in job.modalities]
        more = {
            "optimizer": job.row.optimizer,
            "predict": list(zip(images, labels, strict=True)),
            "mirror": mirror,
        }
        folder = self.study.of(job)
        report = folder / ("predict.json" if mirror else "predict-plain.json")
        return once(report, lambda: self._call("predict", job, folder, more))

    def _home(self, job: Job) -> Path:
        """Of prepared data: other settings, other folder."""
        text = json.dumps(dict(job.settings), sort_keys=True)
        mark = hashlib.sha256(text.encode()).hexdigest()[:12]
        return self.study.out / f"nnunet-{job.settings['configuration']}-{mark}"

    def _raw(self, job: Job) -> Raw:
        return raw_sets(tuple(self.study.datasets))[job.network]

    def _call(self, verb: str, job: Job, folder: Path, more: Mapping[str, Any]) -> dict[str, Any]:
        home = self._home(job)
        found = folder / f"{verb}.found.json"
        settings = {
            "dataset": self._raw(job).name,
            "configuration": job.settings["configuration"],
            "override": job.settings["override"],
            "environment": {
                "nnUNet_raw": str(home / "raw"),
                "nnUNet_preprocessed": str(home / "preprocessed"),
                "nnUNet_results": str(folder / "results"),
            },
            "report": str(found),
            **more,
        }
        path = folder / f"{verb}.settings.json"
        write_json(path, settings)
        command = [str(self.python), str(PEER), verb, str(path)]
        cost = run(command, folder / f"{verb}.log", through=self.study.through)
        return {**json.loads(found.read_text()), "cost": asdict(cost)}


@dataclass(frozen=True)
class Ours:
    """The command line, as a user would type it."""

    study: Study

    def prepare(self, job: Job) -> dict[str, Any]:
        """Nothing: our budget holds the preparation."""
        return {}

    def train(self, job: Job) -> dict[str, Any]:
        """Trained within the budget; one that was stopped goes on."""
        folder = self.study.of(job)
        return once(folder / "train.json", lambda: self._train(job, folder))

    def _train(self, job: Job, folder: Path) -> dict[str, Any]:
        model = folder / "run"
        own = list(job.settings["overrides"])
        data = [f"--data={m}={self.study.roots[m]}" for m in job.modalities]
        arguments = [*data, f"--out={model}", f"data.splits={self.study.split_file}"]
        if job.settings["preset"]:
            arguments.append(f"--preset={job.settings['preset']}")
        elif is_planned(own):
            arguments.append(f"--budget={60 * job.minutes:.0f}s")
        # One thread draws the batches and learns, so that clock and processor agree.
        alone = ["train.threads=1", "train.prefetch=0", "data.workers=1"]
        cost = self._call("train", folder, [*arguments, f"train.seed={job.seed}", *alone, *own])
        steps = [line["step"] for line in read_log(model / "log.jsonl") if line["kind"] == "step"]
        about = read_json(model / "model" / "model.json")["extra"]["parameters"]
        return {"steps": max(steps), "parameters": about["test"], "cost": asdict(cost)}

    def predict(self, job: Job, out: Path) -> dict[str, Any]:
        """Labels of the test cases, in `out/<modality>`."""
        folder = self.study.of(job)
        return once(folder / "predict.json", lambda: self._predict(job, folder, out))

    def _predict(self, job: Job, folder: Path, out: Path) -> dict[str, Any]:
        costs = [
            self._call(
                "predict",
                folder,
                [
                    str(self.study.images(m, job.part)),
                    f"--model={folder / 'run'}",
                    f"--modality={m}",
                    f"--out={out / m}",
                ],
            )
            for m in job.modalities
        ]
        total = Cost(
            processor_seconds=sum(one.processor_seconds for one in costs),
            seconds=sum(one.seconds for one in costs),
            peak_mib=max(one.peak_mib for one in costs),
        )
        return {"cost": asdict(total)}

    def _call(self, verb: str, folder: Path, arguments: Sequence[str]) -> Cost:
        command = [sys.executable, "-m", "unpaired", verb, *arguments]
        return run(command, folder / f"{verb}.log", through=self.study.through)
