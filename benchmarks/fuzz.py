"""Ten thousand damaged inputs, read in worker processes that may neither hang nor fill the memory.

Each input is decided by the seed and its number (`tests/fuzzing/run.py`): a small true file of
one of the kinds below, damaged by bytes, by header fields or by words. `tests/fuzzing/judge.py`
says what became of it; what is wrong is printed with its number, which is enough to see it again.

    python benchmarks/fuzz.py                  # write the section `fuzz` of docs/benchmarks.md
    python benchmarks/fuzz.py --only 1234      # one input, in this process, with all that is said
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from _report import record
from fuzzing.judge import GOOD, MEMORY_BASE, MEMORY_FACTOR, Outcome
from fuzzing.run import KINDS, Bench

LIMIT_SECONDS = 60.0
"""Without an answer; the slowest takes half a second on a quiet machine."""
CAP_BYTES = 1 << 30
"""Address space a worker may take beyond what the program itself has taken."""
HANG, KILLED = "hang", "killed"
GROUPS = {
    "NIfTI": ("nii", "nii-float", "nii-2", "nii-scaled"),
    "NIfTI, compressed": ("nii.gz",),
    "NRRD": ("nrrd", "nrrd-gzip", "nhdr"),
    "MetaImage": ("mha", "mha-zlib", "mhd"),
    "MGH, MGZ": ("mgh", "mgz"),
    "DICOM series": ("dicom", "dicom-rle", "dicom-frames"),
    "manifest (CSV, JSON)": ("manifest", "manifest-json"),
    "dataset.json, splits_final.json": ("dataset-json", "decathlon-json", "splits-json"),
    "configuration (TOML)": ("toml",),
}
Result = tuple[int, str, str, Outcome, float]


def work(seed: int, numbers: list[int], pipe: Connection) -> None:
    """In the worker: one input after another, each answered before the next is begun."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + CAP_BYTES, used + CAP_BYTES))
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), seed)
        for number in numbers:
            start = time.perf_counter()
            kind, how, outcome = bench.run(number)
            pipe.send((number, kind, how, outcome, time.perf_counter() - start))


def results(seed: int, numbers: list[int]) -> Iterator[Result]:
    """Outcomes in order; a worker that hangs or dies costs its input, not the run."""
    spawn = multiprocessing.get_context("spawn")
    while numbers:
        near, far = spawn.Pipe(duplex=False)
        worker = spawn.Process(target=work, args=(seed, numbers, far), daemon=True)
        worker.start()
        far.close()
        wait, verdict = 2 * LIMIT_SECONDS, HANG  # the first answer waits for the imports
        while numbers:
            try:
                if not near.poll(wait):
                    break
                yield near.recv()
            except EOFError:
                verdict = KILLED
                break
            numbers, wait = numbers[1:], LIMIT_SECONDS
        worker.kill()
        worker.join()
        if numbers:
            kind = KINDS[numbers[0] % len(KINDS)]
            yield numbers[0], kind, "", Outcome(verdict, "", 0.0), LIMIT_SECONDS
            numbers = numbers[1:]


def rows(found: list[Result]) -> list[dict[str, object]]:
    """One row a group of kinds, and their sum."""
    table: list[dict[str, object]] = []
    by_kind: dict[str, list[Result]] = defaultdict(list)
    for one in found:
        by_kind[one[1]].append(one)
    groups = {name: [r for k in kinds for r in by_kind[k]] for name, kinds in GROUPS.items()}
    for name, own in {**groups, "all": found}.items():
        counts = Counter(outcome.verdict for *_, outcome, _ in own)
        wrong = Counter({v: n for v, n in counts.items() if v not in GOOD})
        table.append(
            {
                "inputs of": name,
                "number": len(own),
                **{verdict: counts[verdict] for verdict in GOOD},
                "silent": wrong["silent"],
                "traceback": wrong["traceback"],
                "hang or killed": wrong[HANG] + wrong[KILLED],
                "memory beyond": wrong["memory"],
                "sentence without name": wrong["sentence without name"],
                "largest factor": max((o.factor for *_, o, _ in own), default=0.0),
                "slowest, s": max((s for *_, s in own), default=0.0),
            }
        )
    return table


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--inputs", type=int, default=10_000)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--only", type=int, help="one input, in this process")
    asked.add_argument("--write", action=argparse.BooleanOptionalAction, default=True)
    options = asked.parse_args()
    if options.only is not None:
        with tempfile.TemporaryDirectory() as name:
            print(*Bench(Path(name), options.seed).run(options.only), sep="\n")
        return
    found = []
    for one in results(options.seed, list(range(options.inputs))):
        found.append(one)
        number, kind, how, outcome, _ = one
        if outcome.verdict not in GOOD:
            print(f"{number} {kind} {how}: {outcome.verdict}: {outcome.detail[:300]}", flush=True)
        if len(found) % 1000 == 0:
            print(f"{len(found)} inputs", flush=True)
    table = rows(found)
    for row in table:
        print(row)
    print(f"memory: at most {MEMORY_FACTOR} times the larger of {MEMORY_BASE >> 20} MiB and the "
          "bytes of the files with their voxels unpacked")  # fmt: skip
    if options.write:
        packages = ("nibabel", "pydicom", "numpy", "isal")
        record("fuzz", table, packages)


if __name__ == "__main__":
    main()
