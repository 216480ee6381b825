"""The run folder: its files, its lock, and its parts, each read when it is asked for."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout

from unpaired.config import Config, config_from_toml
from unpaired.data.cache import PreparedCase, open_prepared
from unpaired.data.plan import Plan
from unpaired.datasets.dataset import Case
from unpaired.datasets.split_file import Ids, Part, Split, read_splits
from unpaired.errors import DataError, ResourceError, UsageError
from unpaired.files import make_folder, read_json, sha256_of, write_json
from unpaired.leftovers import sweep
from unpaired.run.data import RunData, read_data
from unpaired.run.environment import describe_environment
from unpaired.run.inputs import SPLIT, Inputs, read_inputs
from unpaired.run.log import SCHEDULE, read_log
from unpaired.run.scores import Evaluation, read_evaluation

T = TypeVar("T")
_EARLIER = re.compile(r"\.(last|kept)\.[0-9a-f]{8}\.pt")
"""Temporaries of checkpoints as earlier versions named them."""


@dataclass(frozen=True)
class RunFiles:
    """Where a run keeps what."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def splits(self) -> Path:
        return self.root / "splits_final.json"

    @property
    def data(self) -> Path:
        return self.root / "data.json"

    @property
    def environment(self) -> Path:
        return self.root / "environment.json"

    @property
    def log(self) -> Path:
        return self.root / "log.jsonl"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.csv"

    @property
    def last(self) -> Path:
        return self.root / "checkpoints" / "last.pt"

    @property
    def previous(self) -> Path:
        """The state before last.pt: what training falls back to."""
        return self.root / "checkpoints" / "previous.pt"

    @property
    def kept(self) -> Path:
        """Weights of the model that the run yields: the last, or the best on validation."""
        return self.root / "checkpoints" / "kept.pt"

    @property
    def validated(self) -> Path:
        """What the validation cases measured in the kept model's segmentation."""
        return self.root / "checkpoints" / "validated.json"

    @property
    def weights(self) -> Path:
        """The checkpoint that is exported."""
        return self.kept if self.kept.exists() else self.last

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def semantics(self) -> Path:
        return self.root / "semantics.npz"

    @property
    def inputs(self) -> Path:
        """The sha256 of everything the run is trained on, and the changes it went on with."""
        return self.root / "inputs.json"

    @property
    def pretrained(self) -> Path:
        return self.root / "pretrained.json"

    @property
    def method(self) -> Path:
        """What the loss had beside the terms of `model.name`; there only where it had."""
        return self.root / "method.json"

    @property
    def choices(self) -> Path:
        """Why a planned run has its network, batch, rate and steps; there only if it was."""
        return self.root / "choices.json"

    @property
    def threads(self) -> Path:
        """The number of CPU threads that was chosen by measuring; there only where it was."""
        return self.root / "threads.json"

    @property
    def floor(self) -> Path:
        """What position alone scores on the test cases."""
        return self.root / "floor.json"

    @property
    def prepared(self) -> Path:
        """The run's own prepared cases, unless it shares others'."""
        return self.root / "prepared"

    def predictions(self, part: Part = "test") -> Path:
        """<modality>/<case>.nii.gz of a part of the split."""
        return self.root / ("predictions" if part == "test" else f"predictions_{part}")

    def evaluation(self, part: Part = "test") -> Path:
        """The folder of the scores of a part of the split."""
        return self.root / ("evaluation" if part == "test" else f"evaluation_{part}")


class RunFolder:
    """A run on disk. Every part is read when it is asked for, and anew once its file changed.

    A part that is missing or damaged raises `DataError` (config.toml: `UsageError`) with the
    sentence that says how to mend it; `unpaired.run.contents` reads with patience instead.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.files = RunFiles(self.root)
        self._parts: dict[Path, tuple[object, Any]] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r})"

    @property
    def begun(self) -> bool:
        """Whether training has saved a state to go on from."""
        return self.files.last.exists() or self.files.previous.exists()

    @property
    def config(self) -> Config:
        """The settings, defaults included."""
        return self._part(self.files.config, config_from_toml)

    @property
    def plan(self) -> Plan:
        """Grid, patch, classes and intensities, each with its reason."""
        return self._part(self.files.plan, Plan.read)

    @property
    def data(self) -> RunData:
        """The scans and labels that were given."""
        return self._part(self.files.data, read_data)

    @property
    def split(self) -> Split:
        """Which cases trained, validated and test."""
        self._check_split()
        known = {m: list(cases.values()) for m, cases in self.data.cases.items()}
        return read_splits(self.files.splits, known)[0]

    @property
    def inputs(self) -> Inputs:
        """The sha256 of what the run is trained on, and the changes that it went on with."""
        return self._part(self.files.inputs, read_inputs)

    def _check_split(self) -> None:
        wanted = self.inputs.files.get(SPLIT)
        if wanted is not None and self._part(self.files.splits, sha256_of) != wanted:
            raise DataError(
                f"{self.files.splits} changed since the run was trained. Restore it from a copy; "
                "or train on with the new one: the same command with --accept-changes."
            )

    @property
    def prepared(self) -> dict[str, dict[str, PreparedCase]]:
        """Modality, in the plan's order -> case id -> the case on the plan's grid."""
        index = self.data.prepared / "prepared.json"
        cases = self._part(index, lambda path: open_prepared(path.parent).cases)
        return {m: {case.id: case for case in cases[m]} for m in self.plan.modalities}

    def cases(self, part: Part) -> dict[str, dict[str, Case]]:
        """Modality -> case id -> scan and label, of one part of the split."""
        ids = self.split.part(part)
        return {m: {i: known[i] for i in ids.get(m, ())} for m, known in self.data.cases.items()}

    def prepared_cases(self, part: Part) -> dict[str, list[PreparedCase]]:
        """Modality -> prepared cases of one part of the split."""
        ids = self.split.part(part)
        return {m: self._chosen(m, known, ids) for m, known in self.prepared.items()}

    def _chosen(self, m: str, known: Mapping[str, PreparedCase], ids: Ids) -> list[PreparedCase]:
        try:
            return [known[case] for case in ids.get(m, ())]
        except KeyError as error:
            raise DataError(
                f"{self.data.prepared} lacks the prepared case {m}/{error.args[0]}. Start the "
                "training again with the same command: it prepares what is missing."
            ) from error

    @property
    def steps(self) -> tuple[dict[str, Any], ...]:
        """The logged training steps, in their order."""
        return self._records("step")

    @property
    def validations(self) -> tuple[dict[str, Any], ...]:
        """The validations, in their order."""
        return self._records("validation")

    @property
    def schedules(self) -> tuple[dict[str, Any], ...]:
        """Each time `train.steps` was raised: "step", "before" and "steps"."""
        return self._records(SCHEDULE)

    def _records(self, kind: str) -> tuple[dict[str, Any], ...]:
        """The last record of each step, so that a resumed run has no doubles."""
        log = self._part(self.files.log, read_log)
        found = {
            record["step"]: record
            for record in log
            if isinstance(record, dict) and record.get("kind") == kind and "step" in record
        }
        return tuple(found[step] for step in sorted(found))

    @property
    def scores(self) -> Evaluation:
        """The scores of the test cases, once the run is evaluated."""
        return self.scores_of("test")

    def scores_of(self, part: Part) -> Evaluation:
        """The scores of a part of the split, once that is evaluated."""
        folder = self.files.evaluation(part)
        return self._part(folder / "evaluation.json", lambda _: read_evaluation(folder))

    @property
    def semantics(self) -> dict[str, np.ndarray]:
        """Class embeddings and mean correlations: "embedding/<m>", "correlation/<m>/<scale>"."""
        return self._part(self.files.semantics, _arrays)

    @property
    def environment(self) -> dict[str, Any]:
        """Versions and machine."""
        return self._part(self.files.environment, read_json)

    def _part(self, path: Path, read: Callable[[Path], T]) -> T:
        """What `read` makes of a file, kept until the file changes."""
        try:
            status = path.stat()
            stamp: object = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:
            return read(path)  # says what is wrong
        before, value = self._parts.get(path, (None, None))
        if before != stamp:
            value = read(path)
            self._parts[path] = (stamp, value)
        return value

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder: two runs on one folder would overwrite each other.

        Raises:
            UsageError: another process holds it.
            ResourceError: it cannot be written.
        """
        lock = FileLock(self.root / ".lock", blocking=False)
        try:
            make_folder(self.root)
            held = lock.acquire()
        except Timeout as error:
            raise UsageError(
                f"another process is training in {self.root}. Wait for it, or choose another --out."
            ) from error
        except OSError as error:
            raise ResourceError(
                f"cannot write the run folder {self.root}: {error.strerror}. Choose another --out."
            ) from error
        with held:
            sweep(self.root, deep=True)
            for left in self.files.last.parent.glob(".*.pt"):
                if _EARLIER.fullmatch(left.name):
                    left.unlink(missing_ok=True)
            yield

    def check_there(self) -> None:
        """Raise ResourceError where the folder was removed or moved: nothing begins a new one."""
        if not self.files.config.is_file():
            raise ResourceError(
                f"the run folder {self.root} was removed or moved while it was in use. Put it "
                "back, and the same command goes on from its last checkpoint."
            )

    def write_environment(self) -> None:
        """Versions and machine, for the report."""
        write_json(self.files.environment, describe_environment())


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
