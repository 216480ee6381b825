"""How many CPU threads a training takes: measured beforehand where it is long and nobody has said.

On a machine that other programs use, threads wait for each other: two can be slower than one by
far. Sums are added up in another order by another number of threads, so the number belongs to what
is computed: it is kept with the run, and a run that goes on takes it again.
"""

import os
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter

import torch

from unpaired.config import Config
from unpaired.errors import DataError
from unpaired.files import read_json, write_json
from unpaired.run import RunFolder

LONG_SECONDS = 600.0
"""Trainings below are not worth the measuring."""
GAIN = 0.9
"""Fewer threads must take less than this share of the time: the machine's own number is kept where
it is about as good, so that the same call twice computes the same."""
REPEATS, PATIENCE_SECONDS = 3, 20.0
CHOSEN_ELSEWHERE = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def free_to_choose(config: Config, device: torch.device) -> bool:
    """Whether the number of threads is ours to choose: nobody set it, and there are several."""
    return (
        device.type == "cpu"
        and config.train.threads is None
        and not any(name in os.environ for name in CHOSEN_ELSEWHERE)
        and torch.get_num_threads() > 1
    )


def step_seconds(step: Callable[[], object]) -> dict[int, float]:
    """Seconds of a step by the number of threads: all, half of them, one. Then all again."""
    most = torch.get_num_threads()
    try:
        return {n: _with_threads(step, n) for n in sorted({most, most // 2, 1}, reverse=True)}
    finally:
        torch.set_num_threads(most)


def _with_threads(step: Callable[[], object], count: int) -> float:
    torch.set_num_threads(count)
    return typical_seconds(step)


def typical_seconds(step: Callable[[], object]) -> float:
    """The median of some steps after a first one."""
    step()
    spent: list[float] = []
    while len(spent) < REPEATS and sum(spent) < PATIENCE_SECONDS:
        began = perf_counter()
        step()
        spent.append(perf_counter() - began)
    return median(spent)


def choose(seconds: Mapping[int, float]) -> int:
    """The quickest number of threads, or all of them where it is about as quick."""
    most, best = max(seconds), min(seconds, key=lambda n: seconds[n])
    return best if seconds[best] < GAIN * seconds[most] else most


def with_threads(config: Config, run: RunFolder, chosen: int | None = None) -> Config:
    """The configuration with the run's number of threads, `chosen` for one that begins.

    Raises:
        DataError: what the run has on it is damaged.
    """
    if config.train.threads is not None:
        return config
    path = run.files.threads
    if run.begun:
        chosen = None
        if path.is_file():
            chosen = _recorded(run)
    elif chosen is not None:
        write_json(path, {"threads": chosen})
    if chosen is None:
        return config
    train = config.train.model_copy(update={"threads": chosen})
    return config.model_copy(update={"train": train})


def _recorded(run: RunFolder) -> int:
    path = run.files.threads
    content = read_json(path)
    count = content.get("threads") if isinstance(content, dict) else None
    if not isinstance(count, int) or count < 1:
        raise DataError(
            f"{path} is not what training writes. Remove it, and give train.threads=NUMBER."
        )
    return count
