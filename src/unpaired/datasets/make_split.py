"""Which cases a run learns from, chooses by and is tested on: drawn, held out, few-shot."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from unpaired.config import DataConfig
from unpaired.datasets.dataset import Case
from unpaired.datasets.split import draw_cases, few_shot, random_split
from unpaired.datasets.split_file import Split, read_splits
from unpaired.errors import DataError, UsageError
from unpaired.names import closest, did_you_mean

Labelled = Mapping[str, Sequence[Case]]


def make_split(options: DataConfig, cases: Labelled) -> Split:
    """The parts as configured: a fold of the given file or a random split, then few-shot.

    Args:
        cases: the labelled cases of each modality.

    Raises:
        UsageError: `data.cases`, `data.few_shot` or `data.fold` ask for what is not there.
        DataError: a modality is left without a training case, or the splits file is at fault.
    """
    check_names(options, cases)
    split = _random(options, cases) if options.splits is None else _given(options, cases)
    for m in cases:
        if not split.train.get(m):
            raise DataError(
                f"the split leaves no training case of {m}. Give it more cases, or another "
                "data.split or data.splits."
            )
    for m, count in options.few_shot.items():
        before = len(split.train[m])
        split = few_shot(split, m, count, options.few_shot_seed)
        why = (
            f"Few-shot: {count} of the {before} training cases, drawn by seed "
            f"{options.few_shot_seed}; the other parts are as without it."
        )
        reason = f"{split.reasons.get(m, '')} {why}".strip()
        split = replace(split, reasons={**split.reasons, m: reason})
    return split


def check_names(options: DataConfig, cases: Mapping[str, object]) -> None:
    """Refuse draws of a modality that is not there: they would be ignored in silence.

    Raises:
        UsageError: naming the key and the modalities there are.
    """
    for key in ("cases", "few_shot"):
        for m in getattr(options, key):
            if m not in cases:
                raise UsageError(
                    f"data.{key} names {m!r}, but the data are {', '.join(cases)}."
                    f"{did_you_mean(m, cases)}"
                )
    if options.cases and options.splits is not None:
        raise UsageError(
            "data.cases draws cases for a random split, but data.splits names the cases of each "
            "part already. Leave one of them out."
        )


def check_modalities(configured: Collection[str], data: Collection[str]) -> None:
    """A misspelt table must not be ignored; a preset's table for what is not there may be.

    Unless another modality has none: a protocol's settings would not hold for data that only have
    another name. A single modality is exempt, since comparators train each alone.

    Raises:
        UsageError: naming the table and the modalities there are.
    """
    folded = {name.casefold(): name for name in data}
    unused = sorted(set(configured) - set(data))
    for name in unused:
        if close := closest(name.casefold(), folded):
            raise UsageError(
                f"modalities.{name} is configured, but the data are {', '.join(data)}. "
                f"Did you mean modalities.{folded[close]}?"
            )
    bare = [name for name in data if name not in configured]
    if unused and bare and len(data) > 1:
        raise UsageError(
            f"the settings of the preset or file are for {', '.join(configured)}, the data "
            f"are {', '.join(data)}, so {bare[0]} would have none. Give the data the name in the "
            f"settings (--data {unused[0]}=FOLDER), or settings (modalities.{bare[0]}.clip=auto)."
        )


def free_cases(options: DataConfig, cases: Labelled) -> tuple[dict[str, list[Case]], Split]:
    """What a random split deals, after `data.cases`, and as a split what it must not touch.

    Cases that their data set holds out, and their patients' in every modality, are for testing;
    they are neither drawn nor counted by `data.cases`. The reasons say what was drawn.

    Raises:
        UsageError: `data.cases` asks for more than there are.
    """
    patients = {c.patient for members in cases.values() for c in members if c.held_out}
    held = {
        m: tuple(c.id for c in members if c.patient in patients) for m, members in cases.items()
    }
    free = {m: [c for c in members if c.patient not in patients] for m, members in cases.items()}
    reasons = {}
    for m, count in options.cases.items():
        there = len(free[m])
        free[m] = draw_cases(free[m], m, count, options.split_seed)
        reasons[m] = f"{count} of {there} cases drawn by seed {options.split_seed}."
    return free, Split({}, {}, held, reasons)


def shares(options: DataConfig, cases: Labelled) -> Mapping[str, tuple[float, float, float]]:
    """`data.split` for each modality; where its data set holds cases out, they are the test part
    and the others are dealt to training and validation."""
    train, val, test = options.split
    without_test = (train / (train + val or 1), val / (train + val or 1), 0.0)
    return {
        m: without_test if any(c.held_out for c in members) else (train, val, test)
        for m, members in cases.items()
    }


def _random(options: DataConfig, cases: Labelled) -> Split:
    free, fixed = free_cases(options, cases)
    split = random_split(free, shares(options, cases), options.split_seed)
    test = {m: (*split.test.get(m, ()), *fixed.test[m]) for m in cases}
    reasons = {m: _split_reason(fixed, split, m) for m in cases}
    return replace(split, test=test, reasons=reasons)


def _split_reason(fixed: Split, split: Split, modality: str) -> str:
    held = len(fixed.test[modality])
    parts = [
        fixed.reasons.get(modality, ""),
        split.reasons.get(modality, ""),
        f"{held} more that the data set holds out are for testing." if held else "",
    ]
    return " ".join(part for part in parts if part)


def _given(options: DataConfig, cases: Labelled) -> Split:
    path = Path(str(options.splits))
    folds = read_splits(path, cases)
    if options.fold >= len(folds):
        raise UsageError(
            f"data.fold={options.fold}, but {path} holds {len(folds)} folds, counted from 0."
        )
    split = folds[options.fold]
    why = f"Fold {options.fold} of {path.name}."
    return replace(split, reasons=dict.fromkeys(cases, why))
