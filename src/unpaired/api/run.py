"""Training, and what a run folder holds, in Python."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unpaired.api.data import MemoryDataset
from unpaired.api.scores import Scores
from unpaired.config import Config, preset
from unpaired.datasets.dataset import Dataset
from unpaired.datasets.split_file import Part
from unpaired.errors import DataError, UnpairedError
from unpaired.evaluation.best import Best, find_best
from unpaired.evaluation.ensemble import evaluate_ensemble, is_ensemble
from unpaired.evaluation.evaluate import NATIVE, evaluate
from unpaired.inference.predictor import Predictor
from unpaired.methods import Method
from unpaired.progress import ProgressBar
from unpaired.report import write_report
from unpaired.run import RunFolder
from unpaired.training.fit import train as train_run
from unpaired.training.trainer import OnStep

Data = Dataset | MemoryDataset | str | Path


class Run(RunFolder):
    """A run folder: its settings, plan, split, log and scores (see `RunFolder`), and its model.

    Everything is read when it is asked for.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(Path(folder).expanduser())

    def __repr__(self) -> str:
        parts = [f"Run {self.root}"]
        try:
            plan, config, done = self.plan, self.config, self.steps
            names = ", ".join(plan.classes[1:])
            parts.append(f"{' + '.join(plan.modalities)}; {names}; {config.model.network}")
            parts.append(f"step {done[-1]['step'] if done else 0} of {config.train.steps}")
        except UnpairedError:
            parts.append("holds no training yet")
        return "\n  ".join(parts)

    @property
    def log(self) -> list[dict[str, Any]]:
        """Every record of the training, in order; "kind" is "step" or "validation"."""
        return sorted([*self.steps, *self.validations], key=lambda record: record["step"])

    @property
    def model(self) -> Predictor:
        """The trained model.

        Raises:
            DataError: the training has written none yet.
        """
        return load(self.root)

    def evaluate(
        self, part: Part = "test", *, device: str = "auto", overwrite: bool = False
    ) -> Scores:
        """Predict and score the cases of one part of the split; what is done is kept.

        Of a cross-validation "val" are the cases that the folds held out, each scored by the fold
        that did, and "test" is scored by the mean of the folds.

        Args:
            part: "train", "val" or "test".
            overwrite: predict again.

        Raises:
            DataError: no model, or no such cases.
        """
        how: dict[str, Any] = {"device": device, "overwrite": overwrite}
        with ProgressBar("evaluate") as progress:
            if is_ensemble(self.root):
                parts = evaluate_ensemble(self.root, progress=progress, **how)
                if part not in parts:
                    raise DataError(f"{self.root} holds no {part} case; it has {', '.join(parts)}.")
                return Scores(parts[part])
            found = evaluate(self.root, part, progress=progress, **how)
        return Scores(found[NATIVE])

    def report(self) -> Path:
        """Write the report; returns its page."""
        return write_report(self.root)


def train(
    data: Mapping[str, Data],
    config: Config | None = None,
    *,
    out: str | Path,
    method: Method | None = None,
    on_step: OnStep | None = None,
    accept_changes: bool = False,
) -> Run:
    """Train one network on all modalities; the same call goes on where it stopped.

    Args:
        data: modality -> data set, or the folder of one.
        config: the settings; the default preset's where it is left out.
        out: the run folder. A finished run goes on when `train.steps` is raised.
        method: of your own, such as `Consistency().with_term(...)`; the configured one otherwise.
        on_step: called with each record of the log: a dict with "kind" ("step" or "validation"),
            "step", "loss", "terms", ...
        accept_changes: go on though images, labels or splits changed since the run began; what
            changed is recorded in the run and stands in its report.

    Raises:
        UsageError: a setting, a name or a folder of another run does not fit.
        DataError: the data are at fault.
        ResourceError: memory, disk or a device is missing.
        Interrupted: Ctrl-C; everything is saved, and the same call goes on.
    """
    root = Path(out).expanduser()
    folders = {m: folder_of(m, one, root) for m, one in data.items()}
    with ProgressBar("train") as progress:
        train_run(
            config or preset(), folders, root, progress=progress, method=method, on_step=on_step,
            accept_changes=accept_changes,
        )  # fmt: skip
    return Run(root)


def folder_of(modality: str, data: Data, run: Path) -> Path:
    """The folder of a data set; one in memory is written into the run."""
    if isinstance(data, MemoryDataset):
        return data.write(run / "data" / modality)
    return data.root if isinstance(data, Dataset) else Path(data).expanduser()


def load(model: str | Path | Sequence[str | Path], device: str = "auto") -> Predictor:
    """A trained model: of a run, of folds or a choice (their mean), an export, or several of these.

    Raises:
        DataError: there is none, it is damaged, or the models do not belong together.
        ResourceError: the device is not there.
    """
    named = [model] if isinstance(model, str | Path) else list(model)
    return Predictor.from_folder([Path(one).expanduser() for one in named], device=device)


def best(runs: Sequence[str | Path], *, out: str | Path, device: str = "auto") -> Best:
    """Which of several runs to use, or the mean of which two, by the cases that they held out.

    `load(out)` is then the model. The same call goes on after an interruption. Test cases are not
    read.

    Returns:
        the choice; its `repr` is a table with the reason.

    Raises:
        UsageError: fewer than two runs.
        DataError: a run has no model, or the runs share no cases, labels or modalities.
    """
    paths = [Path(run).expanduser() for run in runs]
    with ProgressBar("best") as progress:
        return find_best(paths, Path(out).expanduser(), device=device, progress=progress)
