"""Kill, fill and damage: commands are killed at random moments, write onto disks that fill up, and
find their files damaged. Each must end as the unbroken command does or with one clear message, and
the next command must leave no temporary.

    python benchmarks/chaos.py                 # write the section `chaos` of docs/reliability.md
    python benchmarks/chaos.py --only kill     # or disk, damage; nothing is written
    python benchmarks/chaos.py --seed 7

Tiny scans and a tiny network (`tests/toy.py`), real commands in processes of their own. Exit code 1
if anything ended otherwise.
"""

import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from _chaos_damage import DAMAGES, Damage  # noqa: E402
from _chaos_same import differences, temporaries  # noqa: E402
from _report import record  # noqa: E402
from toy import toy_config, write_toy  # noqa: E402
from unpaired.config import to_toml  # noqa: E402

PAGE = ROOT / "docs" / "reliability.md"
PROGRAM = [sys.executable, "-c", "from unpaired.cli import main; main()"]
UNDER_TORCHRUN = [
    *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"),
    *("--master_addr=127.0.0.1", "--master_port=PORT", "-m", "unpaired_cli"),
]
SECONDS = 240.0
"""Without an end, a command hangs."""
STEPS = ("train.steps=9", "train.steps_per_epoch=3", "train.threads=1", "train.log_every=1")
GOOD = ("equal", "one message")
BUSY = "another process is training"


@dataclass(frozen=True)
class Command:
    """A verb on its own output.

    Attributes:
        words: arguments, where OUT stands for the place of the output.
        ranks: processes under torchrun.
        seconds: how long it takes unbroken, and until it begins to write.
    """

    name: str
    words: tuple[str, ...]
    ranks: int = 1
    out: Path = Path()
    seconds: tuple[float, float] = (0.0, 0.0)

    def call(self, out: Path) -> list[str]:
        program = PROGRAM if self.ranks == 1 else UNDER_TORCHRUN
        program = [word.replace("PORT", str(free_port())) for word in program]
        return [*program, *(word.replace("OUT", str(out)) for word in self.words)]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Tally:
    """What became of the trials of one row."""

    what: str
    trials: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    left: int = 0
    said: list[str] = field(default_factory=list)

    def row(self) -> dict[str, object]:
        other = {v: n for v, n in self.verdicts.items() if v not in GOOD}
        return {
            "what": self.what,
            "times": self.trials,
            "ended": sum(self.verdicts.values()),
            **{verdict: self.verdicts[verdict] for verdict in GOOD},
            "otherwise": ", ".join(f"{n} {v}" for v, n in other.items()) or 0,
            "temporaries left": self.left,
        }

    @property
    def wrong(self) -> bool:
        return self.left > 0 or any(verdict not in GOOD for verdict in self.verdicts)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    said: str

    @property
    def clear(self) -> bool:
        """One message of ours, of a kind that is no fault of the program."""
        own = [line for line in self.said.splitlines() if line.startswith("unpaired: ")]
        return self.code in (2, 3, 4, 5) and len(own) == 1 and "Traceback" not in self.said


class Chaos:
    """The place of the trials, and the unbroken commands to compare with."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place, self.random = place, random.Random(seed)
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(
            [str(ROOT / "src"), str(place)])}  # fmt: skip
        (place / "unpaired_cli.py").write_text("from unpaired.cli import main\nmain()\n")
        data = [write_toy(place, "a", 4, True, (1, 2)), write_toy(place, "b", 4, False, (7, 3))]
        (place / "toy.toml").write_text(to_toml(toy_config(*STEPS)))
        given = ["--config", str(place / "toy.toml")]
        for root in data:
            given += ["--data", f"{root.name}={root}"]
        self.given = given
        self.commands: dict[str, Command] = {}
        self._unbroken(Command("prepare", ("prepare", "--out", "OUT", "--workers", "2", *given)))
        self._unbroken(Command("train", ("train", "--out", "OUT", *given)))
        self._unbroken(Command("train, 2 ranks", ("train", "--out", "OUT", *given), ranks=2))
        model = self.commands["train"].out
        words = ("predict", str(data[0] / "imagesTr"), "--model", str(model), "--modality", "a")
        more = ("--out", "OUT", "--probabilities", "--device", "cpu")
        self._unbroken(Command("predict", (*words, *more)))

    def _unbroken(self, command: Command) -> None:
        """Run it, and time it."""
        out, began, first = self.place / f"whole-{len(self.commands)}", time.monotonic(), 0.0
        process = self.start(command.call(out))
        while process.poll() is None:
            if not first and out.exists():
                first = time.monotonic() - began
            time.sleep(0.01)
        ended = self.end(process)
        if ended.code:
            raise SystemExit(f"{command.name} fails unbroken:\n{ended.said}")
        timed = (time.monotonic() - began, first)
        self.commands[command.name] = replace(command, out=out, seconds=timed)
        print(f"{command.name}: {timed[0]:.1f} s, writes from {timed[1]:.1f} s on", flush=True)

    def start(self, call: list[str]) -> "subprocess.Popen[bytes]":
        with (self.place / "said.txt").open("wb") as said:  # a pipe would wait for orphans
            return subprocess.Popen(
                call, stdout=subprocess.DEVNULL, stderr=said,
                env=self.environment, cwd=self.place, start_new_session=True,
            )  # fmt: skip

    def end(self, process: "subprocess.Popen[bytes]") -> Ended:
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            kill_group(process)
            return Ended(-1, "hang")
        return Ended(process.returncode, (self.place / "said.txt").read_text(errors="replace"))

    def run(self, call: list[str]) -> Ended:
        return self.end(self.start(call))

    def finish(self, command: Command, out: Path) -> Ended:
        """The same command until it ends, waiting for what of the killed one still lives."""
        for _ in range(20):
            ended = self.run(command.call(out))
            if BUSY not in ended.said:
                break
            time.sleep(1)
        return ended

    def verdict(self, ended: Ended, command: Command, out: Path) -> str:
        if ended.code:
            return "one message" if ended.clear else f"exit {ended.code}: {ended.said[-300:]}"
        other = differences(command.out, out)
        return "equal" if not other else f"silent: {', '.join(other[:3])}"

    def judge(self, tally: Tally, ended: Ended, command: Command, out: Path) -> None:
        verdict = self.verdict(ended, command, out)
        tally.verdicts[verdict] += 1
        left = temporaries(out)
        tally.left += len(left)
        if verdict not in GOOD or left:
            print(f"  {tally.what}: {verdict} {[p.name for p in left]}", flush=True)


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """It and all that it has started, and what these have."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
    except psutil.NoSuchProcess:
        family = []
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def kill_one(process: "subprocess.Popen[bytes]", chaos: Chaos, ranks: int) -> None:
    """The command's own process; under torchrun one of its ranks."""
    family = psutil.Process(process.pid).children(True) if ranks > 1 else []
    chosen = chaos.random.choice(family) if family else psutil.Process(process.pid)
    chosen.kill()


# Kills.


def kills(chaos: Chaos, name: str, count: int, times: int = 2) -> Tally:
    """So many kills, up to `times` in a row of the same command; then it may end."""
    command, tally = chaos.commands[name], Tally(f"kill -9 of `{name}`")
    while tally.trials < count:
        out = chaos.place / f"kill-{command.ranks}-{name.split()[0].strip(',')}-{tally.trials}"
        for _ in range(times):
            tally.trials += strike(chaos, command, out)
        chaos.judge(tally, chaos.finish(command, out), command, out)
        shutil.rmtree(out, ignore_errors=True)
    print(tally.row(), flush=True)
    return tally


def strike(chaos: Chaos, command: Command, out: Path) -> int:
    """Start the command and kill it; 0 where it ended before.

    Half of the kills come at a random time, half at the birth of a random temporary; half take all
    of its processes, half only one.
    """
    whole, first = command.seconds
    process = chaos.start(command.call(out))
    if chaos.random.random() < 0.5:
        wait_for_time(process, chaos.random.uniform(0.8 * first, whole))
    else:
        wait_for_birth(process, out, chaos.random.randint(1, 24), whole)
    alive = process.poll() is None
    try:
        if chaos.random.random() < 0.5:
            kill_group(process)
        else:
            kill_one(process, chaos, command.ranks)
    except psutil.NoSuchProcess:
        alive = False
    chaos.end(process)
    return int(alive)


def wait_for_time(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        time.sleep(0.005)


def wait_for_birth(
    process: "subprocess.Popen[bytes]", out: Path, number: int, seconds: float
) -> None:
    """Until so many temporaries have been seen."""
    seen, until = set[Path](), time.monotonic() + 2 * seconds
    while len(seen) < number and time.monotonic() < until and process.poll() is None:
        seen.update(temporaries(out))


# Disks.


def disks(chaos: Chaos, count: int) -> Tally:
    """A random command writes onto a disk that is full after a random number of bytes."""
    tally = Tally("disk full after random bytes")
    small = has_small_disks(chaos.place)
    print("disks:", "small file systems and limits" if small else "limits of file size", flush=True)
    names = ("prepare", "train", "predict")
    for number in range(count):
        command = chaos.commands[names[number % 3]]
        out = chaos.place / f"disk-{number}"
        total = sum(p.stat().st_size for p in command.out.rglob("*") if p.is_file())
        largest = max(p.stat().st_size for p in command.out.rglob("*") if p.is_file())
        if small and number % 2:
            ended = on_small_disk(chaos, command, out, chaos.random.randint(4096, total))
        else:
            limit = chaos.random.randint(1, largest)
            ended = chaos.run([sys.executable, "-c", LIMITED, str(limit), *command.call(out)])
        tally.trials += 1
        left, told = temporaries(out), "cannot write" in ended.said or not ended.code
        if left or not (told and (ended.clear or not ended.code)):
            tally.verdicts[f"exit {ended.code}: {ended.said[-300:]}"] += 1
            tally.left += len(left)
            print(f"  disk {number}: {ended} {left}", flush=True)
        chaos.judge(tally, chaos.finish(command, out), command, out)
        shutil.rmtree(out, ignore_errors=True)
    print(tally.row(), flush=True)
    return tally


LIMITED = (
    "import os, resource, sys\n"
    "limit = int(sys.argv[1])\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)
SMALL = 'mkdir -p "$1" && mount -t tmpfs -o size=$2 none "$1" || exit 99; shift 2; "$@"; code=$?; '


def has_small_disks(place: Path) -> bool:
    """Whether this user may mount a file system of his own."""
    if shutil.which("unshare") is None:
        return False
    call = ["unshare", "-rm", "sh", "-c", SMALL + "exit $code", "sh", str(place / "try"), "64k"]
    return subprocess.run([*call, "true"], capture_output=True, check=False).returncode == 0


def on_small_disk(chaos: Chaos, command: Command, out: Path, size: int) -> Ended:
    """The command on a file system of so many bytes; what is there is copied to `out`."""
    disk = chaos.place / "disk"
    script = SMALL + f'mkdir -p "{out}"; cp -a "{disk}/run/." "{out}" 2>/dev/null; exit $code'
    call = ["unshare", "-rm", "sh", "-c", script, "sh", str(disk), str(size)]
    return chaos.run([*call, *command.call(disk / "run")])


# Damage.


def damages(chaos: Chaos, count: int) -> Tally:
    """A stored file of a stopped run, of predictions or of scores is damaged."""
    tally = Tally("stored file damaged")
    train = chaos.commands["train"]
    base = chaos.place / "stopped"
    stopping = [*train.call(base), "train.max_minutes=1e-6"]
    for _ in range(4):  # a step each; the same command goes on
        if (ended := chaos.run(stopping)).code:
            raise SystemExit(f"train with a limit of time fails:\n{ended.said}")
    finished = shutil.copytree(train.out, chaos.place / "finished")
    if (ended := chaos.run([*PROGRAM, "evaluate", str(finished)])).code:
        raise SystemExit(f"evaluate fails:\n{ended.said}")
    for number, damage in enumerate(cycled(DAMAGES, count)):
        out = chaos.place / f"damaged-{number}"
        shutil.copytree(finished if damage.finished else base, out)
        moved_prepared(out)
        damage.harm(damage.files(out), chaos.random)
        words = [word.replace("OUT", str(out)) for word in damage.words]
        ended = chaos.run([*PROGRAM, *words, *(chaos.given if words[0] == "train" else [])])
        tally.trials += 1
        verdict = damage_verdict(chaos, damage, ended, out)
        tally.verdicts[verdict] += 1
        left = temporaries(out)
        tally.left += len(left)
        if verdict not in GOOD or left:
            print(f"  {damage.name}: {verdict} {left}", flush=True)
        shutil.rmtree(out, ignore_errors=True)
    print(tally.row(), flush=True)
    return tally


def moved_prepared(out: Path) -> None:
    """The copy of a run has its own prepared cases."""
    data = out / "data.json"
    text = data.read_text(encoding="utf-8")
    for name in ("stopped", "finished", "whole-1"):
        text = text.replace(str(out.parent / name / "prepared"), str(out / "prepared"))
    data.write_text(text, encoding="utf-8")


def damage_verdict(chaos: Chaos, damage: Damage, ended: Ended, out: Path) -> str:
    """Equal and said, or one message; where the damage is mended, that must be so."""
    if ended.code and damage.mended:
        return f"not mended, exit {ended.code}: {ended.said[-300:]}"
    if ended.code:
        return "one message" if ended.clear else f"exit {ended.code}: {ended.said[-300:]}"
    if not damage.mended:
        return f"silent: {damage.name} was accepted"
    other = differences(chaos.commands["train"].out, out)
    if other:
        return f"silent: {', '.join(other[:3])}"
    return "equal" if damage.word in ended.said else f"not said: {ended.said[-300:]}"


def cycled(items: tuple[Damage, ...], count: int) -> Iterator[Damage]:
    for number in range(count):
        yield items[number % len(items)]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--only", choices=("kill", "disk", "damage"))
    asked.add_argument("--kills", type=int, default=14, help="of each command")
    options = asked.parse_args()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        chaos = Chaos(Path(name).resolve(), options.seed)
        parts: dict[str, list[Callable[[], Tally]]] = {
            "kill": [partial(kills, chaos, name, options.kills) for name in chaos.commands],
            "disk": [lambda: disks(chaos, 12)],
            "damage": [lambda: damages(chaos, len(DAMAGES))],
        }
        tallies = [part() for kind, own in parts.items() for part in own
                   if options.only in (None, kind)]  # fmt: skip
    for tally in tallies:
        print(tally.row())
    print(f"{time.monotonic() - began:.0f} s")
    if options.only is None:
        rows = [tally.row() for tally in tallies]
        record("chaos", rows, ("unpaired", "torch", "numpy", "filelock"), PAGE)
    sys.exit(any(tally.wrong for tally in tallies))


if __name__ == "__main__":
    main()
