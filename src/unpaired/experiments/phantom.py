"""The synthetic benchmark: scans made on the spot, and the budgets of its runs."""

from pathlib import Path

from unpaired.phantom import write_phantom
from unpaired.progress import Progress

PRESET = "phantom-benchmark"
LEVEL, CASES, QUICK_CASES = "benchmark", 32, 8
MODALITIES = ("ct", "mr", "t1")
QUICK_STEPS = ("train.steps=60", "train.steps_per_epoch=30", "train.warmup_steps=10")
QUICK = (*QUICK_STEPS, "data.split=[0.5, 0.25, 0.25]")
SMOKE = "A smoke test: the budget is far too small to compare rows."


def scans(
    folder: Path, modalities: int, quick: bool = False, progress: Progress | None = None
) -> dict[str, Path]:
    """Make the scans that are missing: 32 subjects a modality, for a smoke test 8.

    Returns:
        modality -> its folder.
    """
    count = QUICK_CASES if quick else CASES
    counts = dict.fromkeys(MODALITIES[:modalities], count)
    return write_phantom(folder, counts, level=LEVEL, seed=0, progress=progress)
