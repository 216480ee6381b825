"""The training loop, the same for one or many modalities, processes and devices."""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from unpaired.build import build_joint, build_objective
from unpaired.config import Config
from unpaired.data.augment import augment, mirror_axes
from unpaired.data.plan import Plan
from unpaired.data.sampling import Batch
from unpaired.device import autocast, autocast_dtype, find_device
from unpaired.errors import DataError, Interrupted
from unpaired.files import atomic
from unpaired.losses import Terms
from unpaired.models import Joint
from unpaired.run import RunFolder
from unpaired.training import start
from unpaired.training import start as finish
from unpaired.training.checkpoint import Choice, load_checkpoint, save_checkpoint
from unpaired.training.distributed import Group, Stop
from unpaired.training.log import RunLog, read_log, write_metrics
from unpaired.training.optim import build_optimizer, learning_rate
from unpaired.training.setup import Progress, Setup
from unpaired.training.streams import streams_of
from unpaired.training.validate import validate

# A batch on disk, for looking at what broke a training.


def save_batches(path: Path, batches: Mapping[str, Batch]) -> None:
    """Write an .npz: `<modality>/image` [B K h w], `/label` [B h w] and `/case`."""
    arrays: dict[str, np.ndarray] = {}
    for m, batch in batches.items():
        arrays[f"{m}/image"] = batch.image.cpu().numpy()
        arrays[f"{m}/label"] = batch.label.cpu().numpy()
        arrays[f"{m}/case"] = np.array(batch.case)
    with atomic(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]


class Trainer:
    """The state of a training and its loop."""

    def __init__(
        self,
        config: Config,
        setup: Setup,
        folder: RunFolder,
        group: Group,
        progress: Progress | None = None,
    ) -> None:
        self.config, self.setup, self.folder, self.group = config, setup, folder, group
        self.plan: Plan = setup.plan
        self.progress = progress
        self.device = find_device(config.train.device, group.local_rank)
        self.dtype = autocast_dtype(config.train.precision, self.device)
        start.fix_numbers(config.train)
        self.joint: Joint = build_joint(config, self.plan).to(self.device)
        start.begin(self.joint, config, folder, group.leads)
        exempt = self.joint.segmenter.backbone.no_decay
        self.optimizer = build_optimizer(self.joint, config.train, exempt)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.objective = build_objective(config, self.plan, group.sync)
        self.streams = streams_of(config, self.plan, setup.part("train"), group.rank, group.world)
        self.mirror: tuple[bool, ...] = (False,) * self.plan.dims
        if config.augment.mirror == "auto":
            self.mirror, _ = mirror_axes(self.plan)
        self.step, self.seconds = 0, 0.0
        self.choice = Choice(config.train)
        if folder.last.exists():
            self._resume()
        self.log = RunLog(folder.log, self.step) if group.leads else None
        self.network: nn.Module = self.joint
        if group.world > 1:
            self.network = DistributedDataParallel(self.joint)

    @property
    def kept_score(self) -> float:
        """Validation score of the weights that are kept."""
        return self.choice.kept_score

    @property
    def epoch_steps(self) -> int:
        """An epoch is one pass over the longest modality; the shorter ones cycle."""
        if self.config.train.steps_per_epoch is not None:
            return self.config.train.steps_per_epoch
        longest = max(stream.sampler.places for stream in self.streams.values())
        return max(1, math.ceil(longest / (self.config.train.batch_size * self.group.world)))

    def loop(self, stop: Stop) -> str:
        """Steps until the end, a limit, or a signal; returns what ended it.

        Raises:
            Interrupted: a signal came.
        """
        options, began, before = self.config.train, monotonic(), self.seconds
        if self.step >= options.steps or self._gave_up():
            return "steps" if self.step >= options.steps else "early_stop"
        for batches in self._batches():
            terms = self._optimise(batches)
            self.step += 1
            self.seconds = before + monotonic() - began
            self._report(terms)
            if self.step % self.epoch_steps == 0 or self.step == options.steps:
                self._validate()
                self._save()
            if self.step == options.steps:
                return "steps"
            if self.step % self.epoch_steps == 0 and self._gave_up():
                return "early_stop"
            if self.group.any(self._out_of_time()):
                self._save()
                return "max_minutes"
            if self.group.any(stop.asked):
                self._save()
                raise Interrupted(
                    f"stopped at step {self.step} of {options.steps}; everything is saved in "
                    f"{self.folder.root}. The same command goes on from there."
                )
        raise AssertionError("the batches never end")

    def _optimise(self, batches: dict[str, Batch]) -> Terms:
        """One step: forward, objective, backward, clip, update."""
        options = self.config.train
        for group in self.optimizer.param_groups:
            group["lr"] = group["scale"] * learning_rate(options, self.step)
        torch.manual_seed(_step_seed(options.seed, self.step, self.group.rank))  # drop path
        batches = {
            m: augment(
                batch.to(self.device), self.config.augment, self.mirror, options.seed, m,
                self.streams[m].spacing_mm,
            )
            for m, batch in batches.items()
        }  # fmt: skip
        with autocast(self.device, self.dtype):
            outputs = self.network({m: batch.image for m, batch in batches.items()})
        terms = self.objective(outputs, {m: batch.label for m, batch in batches.items()})
        if self.group.any(not math.isfinite(float(terms.total.detach()))):
            self._stop_on_nan(batches)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(terms.total).backward()
        if options.gradient_clip is not None:
            self.scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.joint.parameters(), options.gradient_clip)
            if not self.scaler.is_enabled() and not bool(norm.isfinite()):
                self._stop_on_nan(batches)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return terms

    def _batches(self) -> Iterator[dict[str, Batch]]:
        """Batches from the current step on, read ahead in threads; pure functions of the step."""

        def draw(step: int) -> dict[str, Batch]:
            return {m: stream.sampler.batch(step) for m, stream in self.streams.items()}

        ahead = self.config.train.prefetch
        if ahead == 0:
            while True:
                yield draw(self.step)
        with ThreadPoolExecutor(ahead) as pool:
            waiting: deque[Future[dict[str, Batch]]] = deque()
            asked = self.step
            while True:
                while len(waiting) <= ahead:
                    waiting.append(pool.submit(draw, asked))
                    asked += 1
                yield waiting.popleft().result()

    def _report(self, terms: Terms) -> None:
        options = self.config.train
        if self.log is None:
            return
        if self.progress is not None:
            self.progress(self.step, options.steps, f"loss {float(terms.total.detach()):.3f}")
        if self.step % options.log_every == 0 or self.step == 1:
            self.log.write(
                {
                    "kind": "step",
                    "step": self.step,
                    "epoch": self.step / self.epoch_steps,
                    "lr": self.optimizer.param_groups[0]["lr"],
                    "loss": float(terms.total.detach()),
                    "terms": {name: float(v.detach()) for name, v in terms.terms.items()},
                    "weighted": {name: float(v.detach()) for name, v in terms.weighted.items()},
                    "gain_distance": finish.gain_distance(self.joint),
                    "seconds": self.seconds,
                }
            )

    def _validate(self) -> None:
        """On the first process; the others wait and learn whether to stop."""
        epoch = math.ceil(self.step / self.epoch_steps)
        score = float("nan")
        if self.log is not None:
            found = validate(
                self.joint, self.setup.part("val"), self.plan, self.device, self.dtype,
                self.config.predict.batch_size,
            )  # fmt: skip
            score = found.score
            self.log.write(
                {
                    "kind": "validation",
                    "step": self.step,
                    "epoch": epoch,
                    "dice": found.dice,
                    "mean": found.mean,
                    "score": score,
                    "seconds": self.seconds,
                }
            )
            write_metrics(self.folder.metrics, read_log(self.folder.log))
        score = self.group.from_lead(score)
        if self.choice.better(score, epoch):
            self._keep()

    def _gave_up(self) -> bool:
        patience = self.config.train.early_stop
        epoch = self.step // self.epoch_steps
        return patience is not None and epoch - self.choice.best_epoch >= patience

    def _out_of_time(self) -> bool:
        limit = self.config.train.max_minutes
        return limit is not None and self.seconds >= 60 * limit

    def _save(self) -> None:
        """Everything that the next step depends on; data and randomness depend on the step only.

        What is kept is written first: a kill in between then costs steps, not the model.
        """
        if self.choice.keeps_last:
            self._keep()
        if self.group.leads:
            save_checkpoint(
                self.folder.last,
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
        self.group.barrier()

    def _keep(self) -> None:
        """These weights become the model, unless later ones do."""
        if self.group.leads:
            state = {"step": self.step, "score": self.choice.score}
            save_checkpoint(self.folder.kept, {"model": self.joint.state_dict(), **state})

    def _resume(self) -> None:
        state: dict[str, Any] = load_checkpoint(self.folder.last)
        if state.get("plan") != self.plan.model_dump_json():
            raise DataError(
                f"{self.folder.plan} changed since {self.folder.last} was written. Restore it, or "
                "choose another --out."
            )
        start.load_matching(self.joint, state["model"], self.folder.last)
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.step, self.seconds = state["step"], state["seconds"]
            self.choice.restore(state["choice"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise DataError(
                f"{self.folder.last} is not a whole checkpoint of this network ({error}). Restore "
                "it from a copy, or train anew in another --out."
            ) from error

    def _stop_on_nan(self, batches: dict[str, Batch]) -> None:
        path = self.folder.root / "nan_batch.npz"
        if self.group.leads:
            save_batches(path, batches)
        raise DataError(
            f"the loss or its gradient became not a number at step {self.step + 1}. The batch is "
            f"in {path}, the last good state in the run's checkpoints. Look at these images; then "
            "try a lower train.learning_rate, or train.precision=fp32, in a new --out."
        )


def _step_seed(seed: int, step: int, rank: int) -> int:
    """A seed of its own for each step and process, so that resuming repeats what was."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
