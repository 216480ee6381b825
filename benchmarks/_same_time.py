"""The times of two versions of the program, in turn: what `same_numbers.py --time` measures.

Processor seconds of one thread, the least of several rounds, so that other work on the machine
counts little; those of a training step are the median that the log gives, the least of the rounds.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from _report import record

STEPS, ROUNDS, PREDICTIONS, QUICK_ROUNDS = 14, 3, 9, 15
_SCAN = "../scans/mr/imagesTr/mr_004_0000.nii.gz"


class Side:
    """One version: how its commands are run, and where."""

    def __init__(self, source: Path, work: Path) -> None:
        self.source, self.work, self.runs = source, work, 0
        work.mkdir(parents=True, exist_ok=True)

    def seconds(self, code: str, *arguments: str) -> float:
        """Processor seconds of a Python process that runs `code`."""
        environment = {**os.environ, "PYTHONPATH": str(self.source / "src")}
        child = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=self.work,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{self.work}: {arguments} ended with {child.returncode}")
        return used.ru_utime + used.ru_stime

    def program(self, *arguments: str) -> float:
        """Processor seconds of a command of the program."""
        entry = "import sys; sys.argv[0] = 'unpaired'; from unpaired.cli import main; main()"
        return self.seconds(entry, *arguments)

    def step(self) -> float:
        """Seconds of a training step of the demo's network: the median of a new run."""
        self.runs += 1
        run = f"run_{self.runs}"
        self.program(
            "train", "--out", run, "--data", "ct=../scans/ct", "--data", "mr=../scans/mr",
            "--preset", "demo", "--prepared", "cache", "data.split=[0.5,0.25,0.25]",
            f"train.steps={STEPS}", f"train.steps_per_epoch={STEPS}", "train.warmup_steps=2",
            "train.log_every=1", "train.device=cpu", "data.workers=0", "train.threads=1",
        )  # fmt: skip
        lines = (self.work / run / "log.jsonl").read_text().splitlines()
        at = [line["seconds"] for line in map(json.loads, lines) if line["kind"] == "step"]
        return statistics.median(b - a for a, b in pairwise(at[3:]))

    def predict(self) -> float:
        """Processor seconds of the prediction of one scan."""
        out = f"label_{self.runs}.nii.gz"
        (self.work / out).unlink(missing_ok=True)
        arguments = ("--model", "run_1", "--modality", "mr", "--out", out, "--device", "cpu", _SCAN)
        return self.program("predict", *arguments)


JOBS: dict[str, tuple[int, Callable[[Side], float]]] = {
    "python -c 'import unpaired'": (QUICK_ROUNDS, lambda side: side.seconds("import unpaired")),
    "unpaired --help": (QUICK_ROUNDS, lambda side: side.program("--help")),
    "a training step of the demo's network": (ROUNDS, Side.step),
    "prediction of one scan, with the start of the program": (PREDICTIONS, Side.predict),
}


def measure(base: str, sources: list[Path], folder: Path) -> None:
    """Print the ratios, and write them into the page of the benchmarks."""
    sides = [Side(source, folder / f"time_{i}") for i, source in enumerate(sources)]
    sides[0].program(
        "demo", "--out", "../made", "--cases", "4", "train.steps=1", "train.steps_per_epoch=1",
        "train.warmup_steps=0", "train.device=cpu", "data.split=[0.5,0.25,0.25]",
    )  # fmt: skip
    (folder / "made" / "data").rename(folder / "scans")
    rows: list[dict[str, object]] = []
    for what, (rounds, job) in JOBS.items():
        taken: list[list[float]] = [[], []]
        for _ in range(rounds + 1):  # the first compiles and fills caches, and does not count
            for seconds, side in zip(taken, sides, strict=True):
                seconds.append(job(side))
        before, now = (1e3 * min(seconds[1:]) for seconds in taken)
        print(f"{what}: {before:.1f} ms, now {now:.1f} ms, ratio {now / before:.3f}", flush=True)
        rows.append(
            {
                "what": what,
                f"{base}, ms": before,
                "now, ms": now,
                "now / before": f"{now / before:.3f}",
            }
        )
    record("same_numbers", rows)
