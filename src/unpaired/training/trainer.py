"""The training loop, the same for one or many modalities, processes and devices."""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from unpaired.config import Config, TrainConfig
from unpaired.data.augment import augment, mirror_axes
from unpaired.data.sampling import Batch, Draws
from unpaired.device import autocast, autocast_dtype, find_device
from unpaired.errors import DataError, Interrupted
from unpaired.losses import Terms
from unpaired.methods import Method, method_of
from unpaired.models import Joint
from unpaired.models.whole_batch import span_processes
from unpaired.names import printable
from unpaired.progress import Progress
from unpaired.run import RunFolder
from unpaired.run.log import RunLog, read_log, write_metrics
from unpaired.training.budget import PACE, paced
from unpaired.training.checkpoint import Choice, TrainingState, save_batches
from unpaired.training.distributed import Group, Stop
from unpaired.training.optim import MovingMean, build_optimizer, learning_rate
from unpaired.training.pretrained import start_from_files
from unpaired.training.step import (
    backward,
    gain_distance,
    risen,
    second_views,
    share_of,
    shared_anew,
    views_of,
)
from unpaired.training.validate import Validation, validate, write_validated
from unpaired.training.write_model import write_model

log = logging.getLogger(__name__)
OnStep = Callable[[dict[str, Any]], None]
"""Called with a record of log.jsonl."""


class Trainer:
    """The state of a training and its loop."""

    def __init__(
        self,
        config: Config,
        run: RunFolder,
        group: Group,
        progress: Progress | None = None,
        on_step: OnStep | None = None,
        method: Method | None = None,
    ) -> None:
        self.config, self.run, self.group = config, run, group
        self.method = method_of(config, method)
        self.progress, self.on_step = progress, on_step
        self.plan = run.plan
        self.device = find_device(config.train.device, group.local_rank)
        self.dtype = autocast_dtype(config.train.precision, self.device)
        fix_numbers(config.train)
        self.joint: Joint = self.method.joint(config, self.plan).to(self.device)
        if not run.begun and (config.model.pretrained or config.train.init_from):
            start_from_files(self.joint, config, run, group.leads)
        span_processes(self.joint, group.rank, group.world, group.sync)
        learnt = run.prepared_cases("train")
        counts = {m: len(members) for m, members in learnt.items()}
        settled = self.method.settled(config, counts)
        self.objective = self.method.objective(settled, self.plan, group.sync)
        self.views = second_views(config, self.plan, learnt)
        self.state = self._state()
        self.batch_size = share_of(self.state.images, group.world, run.root)
        if group.leads and self.batch_size != config.train.batch_size:
            log.warning("%s", printable(shared_anew(self.state.images, group.world, config)))
        self.state.images = self.batch_size * group.world
        draws = Draws(self.batch_size, config.train.seed, group.rank, group.world)
        self.streams = self.method.streams(config, self.plan, learnt, draws)
        self.held_out = run.prepared_cases("val")
        self.mirror: tuple[bool, ...] = (False,) * self.plan.dims
        if config.augment.mirror == "auto":
            self.mirror, _ = mirror_axes(self.plan)
        self.saved = self.step  # the step of last.pt
        self.uncapped = 1.0  # of the gradient of terms that are eased, in the last step
        self.validation: tuple[int, Validation] | None = None  # the last one, and its step
        self.log = RunLog(run.files.log, self.step) if group.leads else None
        self.network: nn.Module = self.joint
        if group.world > 1:
            self.network = DistributedDataParallel(self.joint)

    def _state(self) -> TrainingState:
        """New, or as the last checkpoint has it."""
        exempt = self.joint.segmenter.backbone.no_decay
        state = TrainingState(
            self.joint,
            build_optimizer(self.joint, self.config.train, exempt),
            MovingMean(self.joint, self.config.train.average),
            torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16),
            Choice(self.config.train),
            self.plan,
            images=self.config.train.batch_size * self.group.world,
        )
        if self.run.begun:
            state.restore(self.run)
            if self.group.leads:
                state.mend_kept(self.run)
        return state

    @property
    def step(self) -> int:
        """Steps that are done."""
        return self.state.step

    @property
    def epoch_steps(self) -> int:
        """An epoch is one pass over the longest modality; the shorter ones cycle."""
        if self.config.train.steps_per_epoch is not None:
            return self.config.train.steps_per_epoch
        longest = max(stream.sampler.places for stream in self.streams.values())
        return max(1, math.ceil(longest / self.state.images))

    def loop(self, stop: Stop) -> str:
        """Steps until the end, a limit, or a signal; returns what ended it.

        Raises:
            Interrupted: a signal came.
        """
        state, options = self.state, self.config.train
        began, before = monotonic(), state.seconds
        if state.step >= options.steps or self._gave_up():
            return "steps" if state.step >= options.steps else "early_stop"
        for batches in self._batches():
            terms = self._optimise(batches)
            state.step += 1
            state.mean.update(state.step)
            self.group.at(state.step)
            state.seconds = before + monotonic() - began
            self._report(terms)
            if self.group.world == 1 and paced(options, state.step, state.seconds):
                self._save()
                return PACE
            if state.step % self.epoch_steps == 0 or state.step == options.steps:
                self._validate()
                self._save()
                self._write_model()
            if state.step == options.steps:
                return "steps"
            if state.step % self.epoch_steps == 0 and self._gave_up():
                return "early_stop"
            if self.group.any(self._out_of_time()):
                self._save()
                return "max_minutes"
            if self.group.any(stop.asked):
                self._save()
                raise Interrupted(
                    f"stopped at step {state.step} of {options.steps}; everything is saved in "
                    f"{self.run.root}. The same command goes on from there."
                )
        raise AssertionError("the batches never end")

    def _optimise(self, batches: dict[str, Batch]) -> Terms:
        """One step: forward, objective, backward, clip, update."""
        options = self.config.train
        optimizer, scaler = self.state.optimizer, self.state.scaler
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * learning_rate(options, self.step)
        torch.manual_seed(_step_seed(options.seed, self.step))  # drop path: `whole_batch`
        batches = {
            m: augment(
                batch.to(self.device), self.config.augment, self.mirror, options.seed, m,
                self.streams[m].spacing_mm,
            )
            for m, batch in batches.items()
        }  # fmt: skip
        views = views_of(self.views, batches, self.step)
        images = {m: batch.image for m, batch in batches.items()}
        labels = {m: batch.label for m, batch in batches.items()}
        with autocast(self.device, self.dtype):
            outputs = self.network(images, views) if views else self.network(images)
        terms = risen(self.objective(outputs, labels), self.config, self.step)
        if self.group.any(not math.isfinite(float(terms.total.detach()))):
            self._stop_on_nan(batches)
        optimizer.zero_grad(set_to_none=True)
        cap = self.config.loss.cap
        self.uncapped = backward(terms, self.joint, cap, scaler, self.group)
        if options.gradient_clip is not None:
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(self.joint.parameters(), options.gradient_clip)
            if not scaler.is_enabled() and not bool(norm.isfinite()):
                self._stop_on_nan(batches)
        scaler.step(optimizer)
        scaler.update()
        self.joint.remember(outputs, labels, self.group.total)
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
            left = {"uncapped": self.uncapped} if terms.eased else {}
            self._log(
                {
                    "kind": "step",
                    "step": self.step,
                    "epoch": self.step / self.epoch_steps,
                    "lr": self.state.optimizer.param_groups[0]["lr"],
                    "loss": float(terms.total.detach()),
                    "terms": {name: float(v.detach()) for name, v in terms.terms.items()},
                    "weighted": {name: float(v.detach()) for name, v in terms.weighted.items()},
                    "gain_distance": gain_distance(self.joint),
                    "seconds": self.state.seconds,
                    **left,
                }
            )

    def _log(self, record: dict[str, Any]) -> None:
        assert self.log is not None
        self.run.check_there()
        written = self.log.write(record)
        if self.on_step is not None:
            self.on_step(written)

    def _validate(self) -> None:
        """Each process scores its share of the cases; all of them learn the same scores."""
        epoch = math.ceil(self.step / self.epoch_steps)
        with self.state.mean.in_place():
            found = validate(
                self.joint, self.held_out, self.config, self.plan, self.method, self.group
            )
        if self.log is not None:
            self._log(
                {
                    "kind": "validation",
                    "step": self.step,
                    "epoch": epoch,
                    "dice": found.dice,
                    "mean": found.mean,
                    "score": found.score,
                    "seconds": self.state.seconds,
                }
            )
            write_metrics(self.run.files.metrics, read_log(self.run.files.log))
        self.validation = self.step, found
        if self.state.choice.better(found.score, epoch):
            self.state.choice.kept_step = self.step

    def _gave_up(self) -> bool:
        patience = self.config.train.early_stop
        epoch = self.step // self.epoch_steps
        return patience is not None and epoch - self.state.choice.best_epoch >= patience

    def _out_of_time(self) -> bool:
        limit = self.config.train.max_minutes
        return limit is not None and self.state.seconds >= 60 * limit

    def _save(self) -> None:
        """The state first: it says which weights are kept, and a run that goes on writes them."""
        if self.state.choice.keeps_last:
            self.state.choice.kept_step = self.step
        if self.group.leads:
            self.run.check_there()
            self.state.save(self.run)
            self.saved = self.step
            if self.state.choice.kept_step == self.step:
                self.state.keep(self.run)
                if self.validation is not None:
                    write_validated(self.run.files.validated, *self.validation)
        self.group.barrier()

    def _write_model(self) -> None:
        """The model as it is now, for a look before the end; the end writes it anew."""
        if self.group.leads and self.step < self.config.train.steps:
            write_model(self.config, self.run, self.method, self.step)
        self.group.barrier()

    def _stop_on_nan(self, batches: dict[str, Batch]) -> None:
        path = self.run.root / "nan_batch.npz"
        if self.group.leads:
            self.run.check_there()
            save_batches(path, batches)
        good = (
            f"the last good state, of step {self.saved}, in {self.run.files.last}"
            if self.saved
            else "and no checkpoint was written before it"
        )
        raise DataError(
            f"the loss or its gradient became not a number at step {self.step + 1}. The batch is "
            f"in {path}, {good}. Look at these images; then try a lower train.learning_rate, or "
            "train.precision=fp32, in a new --out."
        )


def fix_numbers(options: TrainConfig) -> None:
    """Seed, threads and kernels, before anything random is built."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(options.deterministic, warn_only=True)
    torch.manual_seed(options.seed)


def _step_seed(seed: int, step: int) -> int:
    """A seed of its own for each step, so that resuming repeats what was."""
    return int(np.random.SeedSequence([seed, step, 0]).generate_state(1)[0])
