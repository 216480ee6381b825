"""Training state on disk: whole or not at all, checked, and never an unsafe loader."""

import io
import logging
import math
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unpaired.config import TrainConfig
from unpaired.data.plan import Plan
from unpaired.data.sampling import Batch
from unpaired.errors import DataError, UsageError
from unpaired.files import atomic, put
from unpaired.leftovers import temporary_beside
from unpaired.models import Joint
from unpaired.run import RunFolder
from unpaired.training.optim import MovingMean

SCHEMA = 1
log = logging.getLogger(__name__)


class DamagedError(DataError):
    """A checkpoint that cannot be read, or is none."""


def reason_of(error: Exception) -> str:
    """Why a file of weights could not be read; what torch advises is not passed on."""
    first = (str(error).splitlines() or [""])[0].strip()
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in first:
        if "nsupported" in str(error) or "global" in str(error).casefold():
            return "it could only be read by running code that it names, which is never done"
        return "its contents are damaged"
    return first or type(error).__name__


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) atomically."""
    buffer = io.BytesIO()  # writing through Python: a full disk is then an OSError
    torch.save({"schema": SCHEMA, **state}, buffer)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; checksums are verified, no code is ever run.

    Raises:
        DataError: missing, damaged, foreign or newer.
    """
    mend = "Restore it from a copy, or train anew in another --out."
    if not path.is_file():
        raise DataError(f"there is no checkpoint at {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise DamagedError(f"the checkpoint {path} is damaged (part {damaged}). {mend}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except DamagedError:
        raise
    except Exception as error:  # any failure of a parser of untrusted bytes is the file's fault
        raise DamagedError(
            f"the checkpoint {path} cannot be read: {reason_of(error).rstrip('.')}. {mend}"
        ) from error
    if not isinstance(state, dict) or not isinstance(state.get("schema"), int):
        raise DamagedError(f"{path} is not a checkpoint of this program. {mend}")
    if state["schema"] > SCHEMA:
        raise DataError(
            f"{path} was written by a newer version of this program (schema {state['schema']}, "
            f"this one reads up to {SCHEMA}). Update the program."
        )
    model = state.get("model")
    if not isinstance(model, dict) or not all(isinstance(v, torch.Tensor) for v in model.values()):
        raise DamagedError(f"{path} holds no weights; it is not a whole checkpoint. {mend}")
    return state


def find_state(run: RunFolder) -> int | None:
    """The step of the state to go on from, None where nothing was saved yet.

    Where last.pt is missing or damaged previous.pt takes its place, and a line of the log says so.

    Raises:
        DataError: both are damaged, or newer; or there are weights of a training and no state.
    """
    last, previous = run.files.last, run.files.previous
    faults = []
    for path in (last, previous):
        try:
            step = int(load_checkpoint(path).get("step", 0)) if path.exists() else None
        except DamagedError as error:
            faults.append(str(error))
            continue
        if step is not None and path == previous:
            why = faults[0].split(" Restore")[0] if faults else f"{last} is missing."
            log.warning("%s Going on from %s, at step %d.", why, previous, step)
            previous.replace(last)
        if step is not None:
            return step
    if faults:
        raise DataError(" ".join(dict.fromkeys(faults)))
    _refuse_weights_alone(run)
    return None


def _refuse_weights_alone(run: RunFolder) -> None:
    """Beginning again would write over what a training gave."""
    model = run.files.model / "model.safetensors"
    there = [*sorted(run.files.last.parent.glob("[!.]*.pt")), *([model] if model.exists() else [])]
    if there:
        names = ", ".join(path.relative_to(run.root).as_posix() for path in there)
        from_these = f", from these weights with train.init_from={run.root}"
        raise DataError(
            f"{run.root} holds weights of a training ({names}), but no state to go on from: "
            "checkpoints/last.pt and previous.pt are missing. Restore last.pt from a copy; or "
            f"begin anew in another --out{from_these if run.files.kept in there else ''}; or "
            f"delete {run.root} to train here from the beginning."
        )


def load_matching(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load weights that must match the network exactly.

    Raises:
        DataError: they do not; the message names the layers.
    """
    own = network.state_dict()
    check_weights(own, state, path, DataError)
    network.load_state_dict({name: state[name] for name in own})


def check_weights(
    wanted: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    path: Path,
    kind: type[UsageError] | type[DataError],
) -> None:
    """Raise `kind` naming the layers that a network wants and the file at `path` lacks."""
    missing = [name for name in wanted if name not in state]
    other = [
        f"{name} ({tuple(state[name].shape)} there, {tuple(value.shape)} here)"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    if missing or other:
        parts = [f"missing: {', '.join(missing[:5])}"] if missing else []
        parts += [f"of another shape: {', '.join(other[:5])}"] if other else []
        raise kind(
            f"the weights in {path} do not fit this network; {'; '.join(parts)}. Use the model "
            "and loss settings and the classes of the run that wrote them."
        )


@dataclass
class TrainingState:
    """Everything that the next step depends on; data and randomness depend on the step only."""

    joint: Joint
    optimizer: torch.optim.Optimizer
    mean: MovingMean
    scaler: torch.amp.GradScaler
    choice: "Choice"
    plan: Plan
    step: int = 0
    seconds: float = 0.0
    images: int = 0
    """Of each modality in a step, over all processes."""

    def save(self, run: RunFolder) -> None:
        """Write last.pt; what it was becomes previous.pt."""
        _keep_previous(run)
        mean = {"mean": self.mean.values} if self.mean.values else {}
        save_checkpoint(
            run.files.last,
            {
                **mean,
                "model": self.joint.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "step": self.step,
                "choice": self.choice.state(),
                "seconds": self.seconds,
                "images": self.images,
                "plan": self.plan.model_dump_json(),
            },
        )

    def keep(self, run: RunFolder) -> None:
        """Write kept.pt: the weights alone."""
        state = {"step": self.step, "score": self.choice.score}
        save_checkpoint(run.files.kept, {"model": self.mean.weights(), **state})

    def mend_kept(self, run: RunFolder) -> None:
        """Write kept.pt where this state is newer: a kill came between the two.

        Raises:
            DataError: it is missing or damaged, and held the weights of an earlier step.
        """
        wanted, path = self.choice.kept_step, run.files.kept
        if wanted is None:
            return
        try:
            if load_checkpoint(path)["step"] >= wanted:
                return
            fault = f"{path} is older than {run.files.last}."
        except (DataError, KeyError, TypeError) as error:
            fault = str(error).split(" Restore")[0]
            if wanted == self.step and path.exists():
                log.warning("%s It is written again from %s.", fault, run.files.last)
        if wanted != self.step:
            raise DataError(
                f"{fault} It held the weights that the run keeps, those of step {wanted}. Restore "
                f"it from a copy; or begin anew in another --out; or delete {run.root} to train "
                "here from the beginning."
            )
        self.keep(run)

    def restore(self, run: RunFolder) -> None:
        """Go on from last.pt.

        Raises:
            DataError: it is damaged, of another network, or the plan changed since.
        """
        path = run.files.last
        state = load_checkpoint(path)
        if state.get("plan") != self.plan.model_dump_json():
            raise DataError(
                f"{run.files.plan} changed since {path} was written. Restore it, or choose "
                "another --out."
            )
        load_matching(self.joint, state["model"], path)
        if self.mean.values:
            check_weights(self.mean.values, state.get("mean", {}), path, DataError)
            for name, value in self.mean.values.items():
                value.copy_(state["mean"][name])
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.step, self.seconds = state["step"], state["seconds"]
            self.images = state.get("images", self.images)  # earlier versions did not say
            self.choice.restore(state["choice"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise DataError(
                f"{path} is not a whole checkpoint of this network ({error}). Restore it from a "
                "copy, or train anew in another --out."
            ) from error


def _keep_previous(run: RunFolder) -> None:
    """Give last.pt a second name, so that there is a whole state under one of them at any time."""
    last, previous = run.files.last, run.files.previous
    if not last.exists() or (previous.exists() and previous.samefile(last)):
        return
    beside = temporary_beside(previous)
    try:
        beside.hardlink_to(last)
        put(beside, previous)
    except OSError:  # a file system without hard links
        last.replace(previous)
    finally:
        beside.unlink(missing_ok=True)


def save_batches(path: Path, batches: Mapping[str, Batch]) -> None:
    """Write what broke a training as .npz: `<modality>/image` [B K h w], `/label`, `/case`."""
    arrays: dict[str, np.ndarray] = {}
    for m, batch in batches.items():
        arrays[f"{m}/image"] = batch.image.cpu().numpy()
        arrays[f"{m}/label"] = batch.label.cpu().numpy()
        arrays[f"{m}/case"] = np.array(batch.case)
    with atomic(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]


# Which weights of a run become its model.


SMOOTHING = 0.9
"""Share of the past in the smoothed score, as nnU-Net has it for its best checkpoint."""


class Choice:
    """The last weights, or those whose smoothed validation score is highest (decision D107).

    A score of few validation cases jumps; choosing its highest single value chooses noise. The
    smoothed score is s <- 0.9 s + 0.1 score, from the first score on.
    """

    def __init__(self, options: TrainConfig) -> None:
        self.keeps_last = options.keep == "last" or (
            options.keep == "auto" and options.early_stop is None
        )
        self.score = self.smoothed = self.best = self.best_score = float("nan")
        self.best_epoch = 0
        self.kept_step: int | None = None
        """Of the weights in kept.pt; None before the first, and of runs of earlier versions."""

    @property
    def kept_score(self) -> float:
        """The validation score of the weights that are kept; nan before the first validation."""
        return self.score if self.keeps_last else self.best_score

    def better(self, score: float, epoch: int) -> bool:
        """Take in a validation score; whether these weights are the ones to keep now.

        Without validation cases every score is nan, and the newest weights count.
        """
        self.score = score
        past = score if math.isnan(self.smoothed) else self.smoothed
        self.smoothed = past + (1 - SMOOTHING) * (score - past)
        if math.isnan(score) or math.isnan(self.best) or self.smoothed > self.best:
            self.best, self.best_epoch, self.best_score = self.smoothed, epoch, score
            return not self.keeps_last
        return False

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        names = ("score", "smoothed", "best", "best_score", "best_epoch")
        return {name: getattr(self, name) for name in (*names, "kept_step")}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`; raises KeyError where it is not whole."""
        for name in self.state():
            setattr(self, name, state.get(name) if name == "kept_step" else state[name])
