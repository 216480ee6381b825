"""Training state on disk: whole or not at all, checked, and never an unsafe loader."""

import io
import math
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
from unpaired.files import atomic
from unpaired.models import Joint
from unpaired.run import RunFolder

SCHEMA = 1


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
            raise DataError(f"the checkpoint {path} is damaged (part {damaged}). {mend}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except Exception as error:  # any failure of a parser of untrusted bytes is the file's fault
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"the checkpoint {path} cannot be read: {reason} {mend}") from error
    if not isinstance(state, dict) or not isinstance(state.get("schema"), int):
        raise DataError(f"{path} is not a checkpoint of this program.")
    if state["schema"] > SCHEMA:
        raise DataError(
            f"{path} was written by a newer version of this program (schema {state['schema']}, "
            f"this one reads up to {SCHEMA}). Update the program."
        )
    model = state.get("model")
    if not isinstance(model, dict) or not all(isinstance(v, torch.Tensor) for v in model.values()):
        raise DataError(f"{path} holds no weights; it is not a whole checkpoint. {mend}")
    return state


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
    scaler: torch.amp.GradScaler
    choice: "Choice"
    plan: Plan
    step: int = 0
    seconds: float = 0.0

    def save(self, run: RunFolder) -> None:
        """Write last.pt."""
        save_checkpoint(
            run.files.last,
            {
                "model": self.joint.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "step": self.step,
                "choice": self.choice.state(),
                "seconds": self.seconds,
                "plan": self.plan.model_dump_json(),
            },
        )

    def keep(self, run: RunFolder) -> None:
        """Write kept.pt: the weights alone."""
        state = {"step": self.step, "score": self.choice.score}
        save_checkpoint(run.files.kept, {"model": self.joint.state_dict(), **state})

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
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.step, self.seconds = state["step"], state["seconds"]
            self.choice.restore(state["choice"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise DataError(
                f"{path} is not a whole checkpoint of this network ({error}). Restore it from a "
                "copy, or train anew in another --out."
            ) from error


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
        return {name: getattr(self, name) for name in names}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`; raises KeyError where it is not whole."""
        for name in self.state():
            setattr(self, name, state[name])
