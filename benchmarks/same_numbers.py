"""Is this working tree the same program as the commit BASE, number for number?

    python benchmarks/same_numbers.py [BASE] [--only NAME] [--time] [--jobs 2] [--keep DIR]

Both run the same commands on the same small scans, each in a process and a folder of its own; every
file they write is then compared by `_same_files.py`, bit for bit but for what its small table calls
harmless. Nothing but the command line and the files is used, so the Python inside may change
altogether. Exit code 1 if anything differs. With --time also the ratios of their times, of which
docs/benchmarks.md gets a section.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

from _same_files import folders_differ

SIDES = ("base", "tree")
DATA = ("--data", "ct=../../scans/ct", "--data", "mr=../../scans/mr")
SETTINGS = [
    "data.spacing_mm=[12,8,8]",
    "data.slice_axis=S",
    "data.workers=0",
    "data.split=[0.5,0.25,0.25]",
    "model.heads=2",
    "train.steps=4",
    "train.batch_size=2",
    "train.steps_per_epoch=2",
    "train.warmup_steps=1",
    "train.learning_rate=0.003",
    "train.log_every=1",
    "train.precision=fp32",
    "train.device=cpu",
]
FLAT, DEEP = ["data.patch=[32,32]"], ["data.dims=3", "data.patch=[8,32,32]"]
_OPTIONS = {
    "unet": "base_width=8 stages=3 blocks=[1,1,1]",
    "swin": "embed_dim=8 depths=[1,1,2] heads=[1,2,2] drop_path=0.1",
    "nnformer": "embed_dim=8 depths=[2,2,2] heads=[1,2,2] patch=[1,4,4] window=4",
    "ummkd": "base_width=8 stages=3",
    "valindria": "base_width=8 stages=3",
    "payer": "width=8 levels=3 configuration_width=8 configuration_kernel=3 coarse_width=8 "
    "coarse_levels=2",
}
_NAMES = {
    "unet": "model.backbone=resenc_unet",
    "swin": "model.backbone=swin_unet",
    "nnformer": "model.backbone=nnformer",
}
GROUPS = {
    "losses": ("*/log.jsonl", "*/metrics.csv"),
    "exported files": ("/export/*",),
    "weights": ("*/checkpoints/*", "*/model/*", "*/semantics.npz"),
    "prepared cases": ("*/prepared/*", "/cache/*"),
    "labels and probabilities": ("*.nii.gz", "/predicted/*"),
    "scores": ("*/evaluation/*", "*/floor.json"),
    "report": ("*/report/*", "/page/*"),
    "what is said": ("/said/*",),
    "other files": ("*",),
}
"""Line of the output -> the files below a scenario's folder; each file in the first that fits."""
VERBS = ("demo", "import", "check", "prepare", "train", "predict", "evaluate", "report", "compare",
         "export", "reproduce")  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """Commands of the program, run one after another in a folder of their own.

    Attributes:
        same_run: two runs of it that must be equal in losses and weights.
    """

    name: str
    commands: tuple[list[str], ...]
    same_run: tuple[str, str] | None = None


def train(run: str, network: str, *more: str, size: list[str] = FLAT) -> list[str]:
    """A training of a few steps."""
    own = [f"model.options.{option}" for option in _OPTIONS[network].split()]
    named = _NAMES.get(network, f"model.name={network}")
    return ["train", "--out", run, *DATA, *SETTINGS, *size, named, *own, *more]


def scored(name: str, network: str, *more: str, size: list[str] = FLAT) -> Scenario:
    """Train and evaluate."""
    return Scenario(name, (train("run", network, *more, size=size), ["evaluate", "run"]))


def whole_way() -> Scenario:
    """Everything that is done with one run."""
    scans = ["--modality", "mr", "../../scans/mr/imagesTr"]
    one = ["--modality", "ct", "../../scans/ct/imagesTr/ct_004_0000.nii.gz"]
    return Scenario(
        "unet-2d",
        (
            train("run", "unet"),
            ["evaluate", "run", "--json"],
            ["report", "run"],
            ["predict", "--model", "run", "--out", "predicted/mr", "--probabilities", *scans],
            ["predict", "--model", "run", "--out", "predicted/ct.nrrd", "--mirror", *one],
            ["export", "run", "export/gains", "--format", "all"],
            ["export", "run", "export/folded", "--form", "folded", "--format", "safetensors",
             "--format", "onnx", "--modality", "ct", "--json"],
            ["predict", "--model", "export/folded/onnx/ct", "--out", "predicted/onnx.nii.gz", *one],
            ["predict", "--model", "export/gains/bundle", "--out", "predicted/b.nii.gz", *one],
            ["evaluate", "--predictions", "predicted/mr", "--labels", "../../scans/mr/labelsTr",
             "--out", "run/evaluation/folder"],
        ),
    )  # fmt: skip


def variants() -> Scenario:
    """V1 and V2, one against the other, and together."""
    one = ["--modality", "ct", "../../scans/ct/imagesTr/ct_004_0000.nii.gz"]
    both = ["--model", "v1", "--model", "v2"]
    return Scenario(
        "unet-2d-V1-V2",
        (
            train("v1", "unet", "model.variant=V1", "model.maps=scaled", "loss.aux_target=logits"),
            train("v2", "unet", "model.variant=V2", "loss.mask_absent=false"),
            ["evaluate", "v1"],
            ["evaluate", "v2"],
            ["compare", "v1", "v2", "--out", "page"],
            ["predict", *both, "--out", "predicted/both.nii.gz", "--probabilities", *one],
        ),
    )


def resumed() -> Scenario:
    """Stopped after the first step of an epoch, then gone on with; and never stopped."""
    stopped = train("resumed", "unet", "train.keep=best", "train.max_minutes=1e-6")
    again = train("resumed", "unet", "train.keep=best")
    return Scenario(
        "resumed",
        (train("run", "unet", "train.keep=best"), stopped, again),
        same_run=("run", "resumed"),
    )


def reproduced() -> Scenario:
    """Two rows of a table of the paper."""
    # Without a number of threads a study takes its share of the cores, by another rule since.
    settings = train("", "unet", "train.steps=2", "train.threads=1")[7:]
    rows = ["--rows", "Joint V2;Joint V3", "--seeds", "1"]
    return Scenario(
        "reproduced-table",
        (["reproduce", "table5", "--out", "runs", *DATA, *rows, *settings],),
    )


def sentences() -> Scenario:
    """Help, and refusals."""
    return Scenario(
        "sentences",
        (
            *([verb, "--help"] for verb in VERBS),
            ["--help"],
            ["trian"],
            train("a", "unet", "train.stepz=3"),
            train("a", "unet", "model.backbone=swin_unte"),
            train("a", "unet", "--preset", "dmo"),
            ["train", "--out", "a", "--data", "ct=nowhere"],
            ["train", "--out", "a"],
            ["predict", "--model", "nowhere", "--out", "b.nii.gz", "../../scans/ct/imagesTr"],
            ["evaluate", "nowhere"],
            ["report", "nowhere"],
            ["check", *DATA, "--preset", "demo"],
            ["check", "../../scans/ct/labelsTr", "--json"],
        ),
    )


def scenarios() -> list[Scenario]:
    """All of them; the first makes the scans."""
    tiny = [s for s in [*SETTINGS, *FLAT, "train.steps=2"] if "split" not in s]
    demo = train("", "unet", "data.split=[0.5,0.25,0.25]")[-4:]
    folds = train("runs", "unet", "--folds", "2", "train.steps=2")
    cache = ["prepare", "--out", "cache", *train("", "unet", size=DEEP)[3:]]
    deep = [*train("run", "unet", size=DEEP), "--prepared", "cache"]
    return [
        Scenario("phantom", (["demo", "--out", ".", "--cases", "4", *tiny, *demo],)),
        whole_way(),
        variants(),
        resumed(),
        Scenario("unet-3d", (cache, deep, ["evaluate", "run"])),
        Scenario("swin-2d", (*scored("", "swin").commands, ["report", "run"],
                             ["export", "run", "export/folded", "--form", "folded"])),
        scored("nnformer-3d", "nnformer", size=DEEP),
        scored("ummkd", "ummkd"),
        scored("valindria", "valindria"),
        scored("payer", "payer", "locate.coarse_mm=24", size=DEEP[:1]),
        Scenario("folds", (folds, ["evaluate", "runs/fold_1"])),
        reproduced(),
        sentences(),
    ]  # fmt: skip


PRELOADED = [
    "numpy",
    "scipy.ndimage",
    "scipy.stats",
    "torch",
    "torch.export",
    "nibabel",
    "joblib",
    "pydantic",
    "typer",
    "rich.console",
    "rich.table",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "einops",
    "jaxtyping",
    "psutil",
    "safetensors.torch",
]
"""What every command imports: once, in the process that the commands are forked from."""
FIXED = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1"}


@dataclass(frozen=True)
class Program:
    """The program of one side, and the folder it works in."""

    source: Path
    work: Path

    def run(self, scenario: Scenario) -> int:
        """Run its commands; what each said and its exit code become a file. 1 if one failed."""
        failed = 0
        folder = self.work / scenario.name
        (folder / "said").mkdir(parents=True)
        for n, arguments in enumerate(scenario.commands):
            path = folder / "said" / f"{n:02d} {arguments[0].strip('-')}.txt"
            code = execute(self.source, folder, arguments, path)
            text = path.read_text()
            path.write_text(f"{text}\nexit code {code}\n")
            if code and scenario.name != "sentences":
                print(f"{folder}: {' '.join(arguments)}\n{text[-800:]}", flush=True)
                failed = 1
        return failed


POOLING = ("demo", "reproduce")
"""Verbs that start processes, whose pool ends well only with a process of its own."""


def execute(source: Path, folder: Path, arguments: list[str], said: Path) -> int:
    """The exit code of one command."""
    if arguments[0] in POOLING and "--help" not in arguments:
        given = [str(source), str(folder), str(said), *arguments]
        return subprocess.run([sys.executable, __file__, "--call", *given], check=False).returncode
    return ended(forked(lambda: call(source, folder, arguments, said)))


def forked(work: Callable[[], object]) -> int:
    """Start the work in a fork of this process, which ends with what it returns or exits with."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = int(work() or 0)  # type: ignore[call-overload]
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int:
    """Wait for it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def call(source: Path, folder: Path, arguments: list[str], said: Path) -> None:
    """Be the program, as its script is: what the project file names as its entry."""
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1) for n in (1, 2))
    sys.path.insert(0, str(source / "src"))
    os.environ["PYTHONPATH"] = str(source / "src")  # for processes that it starts
    os.chdir(folder)
    sys.argv = ["unpaired", *arguments]
    with (source / "pyproject.toml").open("rb") as file:
        module, name = tomllib.load(file)["project"]["scripts"]["unpaired"].split(":")
    entry = getattr(import_module(module), name)
    assert sys.modules["unpaired"].__file__ == str(source / "src" / "unpaired" / "__init__.py")
    entry()


def check_out(base: str, root: Path, folder: Path) -> list[Program]:
    """The source of both sides, copied, so that editing meanwhile changes nothing."""
    programs = []
    for side in SIDES:
        source = folder / "source" / side
        source.mkdir(parents=True)
        if side == "tree":
            shutil.copytree(root / "src", source / "src")
            shutil.copy(root / "pyproject.toml", source)
        else:
            command = ["git", "archive", base, "src", "pyproject.toml"]
            packed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout
            subprocess.run(["tar", "-x", "-C", source], input=packed, check=True)
        programs.append(Program(source, folder / side))
    return programs


def shrink(scans: Path, small: Path) -> None:
    """Every second row and column of the scans, for all other scenarios."""
    import nibabel

    shutil.copytree(scans, small)
    for path in small.rglob("*.nii.gz"):
        image = nibabel.load(path)
        nibabel.save(image.slicer[::2, ::2], path)


def files_below(folder: Path) -> list[str]:
    """Names of all the files, as in /run/log.jsonl."""
    return [f"/{p.relative_to(folder).as_posix()}" for p in folder.rglob("*") if p.is_file()]


def compare(scenario: Scenario, programs: list[Program]) -> Iterator[tuple[str, str | None]]:
    """(what was compared, what differs or None), one per line of the output."""
    base, tree = (program.work / scenario.name for program in programs)
    left = sorted({*files_below(base), *files_below(tree)})
    for group, patterns in GROUPS.items():
        chosen = [name for name in left if any(fnmatch(name, p) for p in patterns)]
        left = [name for name in left if name not in chosen]
        if chosen:
            yield group, folders_differ(base, tree, [name[1:] for name in chosen])
    if scenario.same_run is not None:
        unbroken, broken = (tree / run for run in scenario.same_run)
        names = ["log.jsonl", "metrics.csv", "checkpoints/last.pt", "checkpoints/kept.pt",
                 "model/model.safetensors"]  # fmt: skip
        yield "the resumed run as the unbroken", folders_differ(unbroken, broken, names)


def run_all(chosen: list[Scenario], programs: list[Program], jobs: int, folder: Path) -> bool:
    """Run and compare; whether all was equal."""
    for name in PRELOADED:
        import_module(name)
    waiting = [(scenario, program) for scenario in chosen for program in programs]
    first, equal, running = chosen[0], True, {}
    left = {scenario.name: len(programs) for scenario in chosen}
    while waiting or running:
        if waiting and len(running) < jobs and (waiting[0][0] is first or not left[first.name]):
            scenario, program = waiting.pop(0)
            running[forked(lambda s=scenario, p=program: p.run(s))] = scenario
            continue
        pid, status = os.wait()
        scenario = running.pop(pid)
        equal = equal and status == 0
        left[scenario.name] -= 1
        if left[scenario.name]:
            continue
        if scenario is first:
            shrink(folder / "base" / first.name / "data", folder / "scans")
        equal = not ended(forked(lambda s=scenario: compare_all(s, programs))) and equal
    return equal


def compare_all(scenario: Scenario, programs: list[Program]) -> int:
    """Print one line per comparison; 1 if anything differs."""
    found = list(compare(scenario, programs))
    for what, difference in found:
        print(f"{scenario.name:17} {what:32} {difference or 'equal'}")
    return int(any(difference is not None for _, difference in found))


def main() -> int:
    """Compare; 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", nargs="?", default="HEAD", help="a commit")
    parser.add_argument("--only", action="append", metavar="NAME", help="of the scenarios")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--time", action="store_true", help="measure instead")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep what both sides wrote")
    asked = parser.parse_args()
    git = ["git", "rev-parse", "--show-toplevel"]
    found = subprocess.run(git, capture_output=True, text=True, check=False)
    if found.returncode:
        print("same_numbers: not in a git checkout, so there is no commit to compare with.")
        return 0
    every = scenarios()
    if unknown := {*(asked.only or ())} - {s.name for s in every}:
        parser.error(f"no scenario {unknown}; there are {', '.join(s.name for s in every)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the folder below goes then, too
    os.environ.update(FIXED)
    with tempfile.TemporaryDirectory(prefix="same_numbers.") as temporary:
        folder = (asked.keep or Path(temporary)).resolve()
        if any(folder.glob("*")):
            parser.error(f"--keep {folder} is not empty")
        programs = check_out(asked.base, Path(found.stdout.strip()), folder)
        if asked.time:
            from _same_time import measure

            measure(asked.base, [program.source for program in programs], folder)
            return 0
        chosen = [s for s in every if s is every[0] or not asked.only or s.name in asked.only]
        equal = run_all(chosen, programs, max(1, asked.jobs), folder)
    print("All is equal." if equal else "Something differs, or failed.")
    return 0 if equal else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--call"]:
        where = [Path(text) for text in sys.argv[2:5]]
        call(where[0], where[1], sys.argv[5:], where[2])
    sys.exit(main())
