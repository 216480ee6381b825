"""One input after another, each decided by the seed and its number alone."""

import shutil
import tempfile
from pathlib import Path

import numpy as np

from fuzzing.damage import damage
from fuzzing.judge import Outcome, judge
from fuzzing.seeds import IMAGES, LARGE, SMALL, TEXTS, Seed, make, write
from fuzzing.texts import TEXT_READERS
from unpaired.io.read import read_image

KINDS = (*IMAGES, *TEXTS)
LARGE_EVERY = 40
"""Of every kind one input in so many is large, where memory would show."""


class Bench:
    """Seeds and their true contents, made once; a folder to work in."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.seed = folder, seed
        self._made: dict[tuple[str, bool], tuple[Seed, object]] = {}

    def plan(self, number: int) -> tuple[str, bool, np.random.Generator]:
        """Kind, size and draw of an input."""
        kind = KINDS[number % len(KINDS)]
        large = kind in IMAGES and number // len(KINDS) % LARGE_EVERY == LARGE_EVERY - 1
        return kind, large, np.random.default_rng([self.seed, number])

    def build(self, number: int) -> tuple[Seed, object, Path, str]:
        """Write input `number` into the folder, emptied before; the path to read."""
        kind, large, draw = self.plan(number)
        seed, truth = self._seed(kind, large)
        files, how = damage(seed, draw)
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        changed = Seed(kind, files, seed.target, seed.damaged, seed.content)
        target = write(changed, self.folder)
        return seed, truth, target / "series" if kind.startswith("dicom") else target, how

    def run(self, number: int) -> tuple[str, str, Outcome]:
        """Kind, damage and outcome of input `number`."""
        seed, truth, target, how = self.build(number)
        honest = (
            1 + seed.content + sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())
        )
        return seed.kind, how, judge(seed, truth, target, how, honest)

    def _seed(self, kind: str, large: bool) -> tuple[Seed, object]:
        if (kind, large) not in self._made:
            with tempfile.TemporaryDirectory() as name:
                made = make(kind, Path(name) / "made", LARGE if large else SMALL)
                target = write(made, Path(name) / "true")
                target = target / "series" if kind.startswith("dicom") else target
                truth = TEXT_READERS.get(kind, read_image)(target)
            self._made[kind, large] = made, truth
        return self._made[kind, large]
