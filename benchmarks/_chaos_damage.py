"""Ways to damage what a run has stored, and what the next command must make of it."""

import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TRAIN = ("train", "--out", "OUT")


@dataclass(frozen=True)
class Damage:
    """One kind.

    Attributes:
        files: of a run's folder, the files to damage.
        words: the next command.
        mended: whether it goes on and ends as if nothing had been, and says so with `word`.
        finished: on a finished run; else on one stopped at a step.
    """

    name: str
    files: Callable[[Path], list[Path]]
    harm: Callable[[list[Path], random.Random], None]
    words: tuple[str, ...] = TRAIN
    mended: bool = False
    word: str = ""
    finished: bool = False


def invert(paths: list[Path], draw: random.Random) -> None:
    """A random stretch of bytes, the size and the time as they were."""
    for path in paths:
        status, content = path.stat(), bytearray(path.read_bytes())
        start = draw.randrange(len(content))
        stop = min(len(content), start + draw.randint(1, 4000))
        content[start:stop] = bytes(b ^ 255 for b in content[start:stop])
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def cut(paths: list[Path], draw: random.Random) -> None:
    for path in paths:
        path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def remove(paths: list[Path], draw: random.Random) -> None:
    for path in paths:
        path.unlink()


def digit(paths: list[Path], draw: random.Random) -> None:
    """Another digit in place of one; the file is still JSON."""
    for path in paths:
        text = path.read_text(encoding="utf-8")
        places = [i for i, c in enumerate(text) if c in "12345678" and text[i - 1] in " ."]
        at = draw.choice(places)
        path.write_text(text[:at] + "9" + text[at + 1 :], encoding="utf-8")
        json.loads(path.read_text(encoding="utf-8"))


def swap(paths: list[Path], draw: random.Random) -> None:
    """A test case trains."""
    for path in paths:
        (fold,) = json.loads(path.read_text())
        fold["train"].append(fold["test"].pop())
        path.write_text(json.dumps([fold]))


def arrays(end: str) -> Callable[[Path], list[Path]]:
    def found(out: Path) -> list[Path]:
        own = sorted((out / "prepared").rglob(f"*{end}"))
        return [p for p in own if end != ".npy" or ".label." not in p.name][:1]

    return found


def named(*names: str) -> Callable[[Path], list[Path]]:
    return lambda out: [out / name for name in names]


LAST, PREVIOUS, KEPT = (f"checkpoints/{name}.pt" for name in ("last", "previous", "kept"))
MODEL = "model/model.safetensors"
DAMAGES: tuple[Damage, ...] = (
    Damage("prepared image inverted", arrays(".npy"), invert, mended=True, word="prepared anew"),
    Damage("prepared label cut", arrays(".label.npy"), cut, mended=True, word="prepared anew"),
    Damage("prepared label missing", arrays(".label.npy"), remove, mended=True,
           word="prepared anew"),
    Damage("record of a case", lambda out: arrays(".npy")(out)[0].parent.glob("*[0-9].json") and
           sorted(arrays(".npy")(out)[0].parent.glob("*.json"))[:1], digit, mended=True,
           word="prepared anew"),
    Damage("state inverted", named(LAST), invert, mended=True, word="previous.pt"),
    Damage("state cut", named(LAST), cut, mended=True, word="previous.pt"),
    Damage("state missing", named(LAST), remove, mended=True, word="previous.pt"),
    Damage("both states cut", named(LAST, PREVIOUS), cut),
    Damage("both states missing", named(LAST, PREVIOUS), remove),
    Damage("kept weights inverted", named(KEPT), invert, mended=True,
           word="kept.pt", finished=True),
    Damage("plan with another digit", named("plan.json"), digit),
    Damage("split with a test case in training", named("splits_final.json"), swap),
    Damage("record of the inputs", named("inputs.json"), digit),
    Damage("model inverted", named(MODEL), invert, ("evaluate", "OUT"), finished=True),
    Damage("scores with another digit", named("evaluation/evaluation.json"), digit,
           ("compare", "OUT", "OUT", "--out", "OUT/compare"), finished=True),
)  # fmt: skip
