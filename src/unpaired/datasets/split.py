"""Training, validation and test parts by patient: random, in folds, few-shot, or from a file."""

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from unpaired.config import DataConfig
from unpaired.datasets.dataset import Case
from unpaired.datasets.split_file import Cases, HasPatient, Ids, Split, read_splits, write_splits
from unpaired.errors import DataError, UsageError
from unpaired.names import closest, did_you_mean

__all__ = [
    "Split",
    "draw_cases",
    "few_shot",
    "k_folds",
    "random_split",
    "read_splits",
    "write_splits",
]

One = TypeVar("One", bound=HasPatient)
Shares = tuple[float, float, float]
# The random stream of `draw_cases`; that of a split is its number of parts.
_DRAW = 1 << 16


def random_split(
    cases: Cases, fractions: Shares | Mapping[str, Shares] = (0.7, 0.1, 0.2), seed: int = 0
) -> Split:
    """Draw parts by patient; every modality's counts follow `fractions` by largest remainder.

    All cases of a patient, in any modality, stay together; where that makes the exact counts
    impossible, the nearest are taken. From 3 patients on every part with a fraction has a case;
    2 patients go to training and test, a single one to training.

    Args:
        fractions: of training, validation and test; for all modalities, or for each its own.

    Raises:
        UsageError: fractions that are negative, without training, or do not add up to 1.
        DataError: a case id appears twice in a modality.
    """
    each = fractions if isinstance(fractions, Mapping) else dict.fromkeys(cases, fractions)
    targets, reasons = {}, {}
    for modality, found in cases.items():
        _check_shares(each[modality])
        _check_ids(modality, found)
        patients = len({case.patient for case in found})
        targets[modality] = _counts(len(found), patients, each[modality])
        reasons[modality] = _reason(targets[modality], patients, each[modality])
    train, val, test = _assign(cases, targets, 3, seed)
    return Split(train, val, test, reasons)


def draw_cases(found: Sequence[One], modality: str, count: int, seed: int = 0) -> list[One]:
    """`count` of a modality's cases at random, whole patients as far as the number allows.

    The draw is a function of the patients' names, the modality's and the seed, not of the order
    of `found`; it shares no random numbers with the split of that seed.

    Raises:
        UsageError: there are fewer cases.
    """
    if not 0 < count <= len(found):
        raise UsageError(
            f"data.cases asks for {count} cases of {modality}, but {len(found)} can be drawn "
            "(labelled, and not held out for testing). Ask for fewer."
        )
    names = sorted({case.patient for case in found})
    rng = np.random.default_rng([seed, zlib.crc32(modality.encode()), _DRAW])
    place = {names[i]: n for n, i in enumerate(rng.permutation(len(names)))}
    drawn = sorted(found, key=lambda case: (place[case.patient], case.id))[:count]
    return sorted(drawn, key=lambda case: case.id)


def k_folds(cases: Cases, k: int, seed: int = 0, test: Ids | None = None) -> list[Split]:
    """`k` splits whose validation parts cover all cases but `test` once, by patient.

    Raises:
        UsageError: k below 2.
        DataError: a modality has fewer patients than folds, or `test` parts a patient's cases.
    """
    if k < 2:
        raise UsageError(f"{k} folds make no sense; ask for 2 or more.")
    fixed = {modality: tuple((test or {}).get(modality, ())) for modality in cases}
    held = {c.patient for m, found in cases.items() for c in found if c.id in set(fixed[m])}
    free, targets = {}, {}
    for modality, found in cases.items():
        _check_ids(modality, found)
        free[modality] = [case for case in found if case.id not in set(fixed[modality])]
        leaked = sorted(case.id for case in free[modality] if case.patient in held)
        if leaked:
            raise DataError(
                f"{modality}/{leaked[0]} is of a patient in the test part; put it there too."
            )
        patients = len({case.patient for case in free[modality]})
        if patients < k:
            raise DataError(
                f"{modality} has {patients} patients, too few for {k} folds; "
                f"ask for at most {patients} folds or add cases."
            )
        targets[modality] = _largest_remainder(len(free[modality]), (1 / k,) * k)
    parts = _assign(free, targets, k, seed)
    splits = []
    for fold in range(k):
        train = {
            m: tuple(sorted(i for j, part in enumerate(parts) if j != fold for i in part[m]))
            for m in cases
        }
        splits.append(Split(train, parts[fold], dict(fixed)))
    return splits


def few_shot(split: Split, modality: str, count: int, seed: int = 0) -> Split:
    """The split with only `count` training cases of `modality`, drawn at random.

    Raises:
        UsageError: there are fewer, or the modality is unknown.
    """
    known = split.train.get(modality, ())
    if not 0 < count <= len(known):
        raise UsageError(
            f"cannot draw {count} of the {len(known)} training cases of {modality!r} "
            "(data.few_shot). Ask for at least 1, and no more than there are."
        )
    drawn = np.random.default_rng([seed, count]).choice(len(known), count, replace=False)
    kept = tuple(known[i] for i in sorted(drawn))
    return replace(split, train={**split.train, modality: kept})


def _check_shares(fractions: Shares) -> None:
    if min(fractions) < 0 or fractions[0] == 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UsageError(
            f"data.split is {list(fractions)}; give fractions for training, validation and test "
            "that add up to 1, training above 0."
        )


def _check_ids(modality: str, found: Sequence[HasPatient]) -> None:
    ids = [case.id for case in found]
    twice = sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise DataError(f"{modality} has the case {twice[0]!r} twice; remove or rename one.")


def _largest_remainder(total: int, fractions: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `total` and are nearest to total * fractions."""
    # Rounded, so that 0.1 * 30 = 3.0000000000000004 and 0.7 * 45 = 31.499999999999996 mean what
    # they should; of equal remainders the first part wins.
    shares = [round(total * fraction / sum(fractions), 9) for fraction in fractions]
    counts = [int(share) for share in shares]
    left = sorted(range(len(shares)), key=lambda part: counts[part] - shares[part])
    for part in left[: total - sum(counts)]:
        counts[part] += 1
    return counts


def _counts(total: int, patients: int, fractions: Sequence[float]) -> list[int]:
    """Cases for training, validation and test, no wanted part empty if it can be helped."""
    if patients <= 1:
        return [total, 0, 0]
    counts = _largest_remainder(total, fractions)
    wanted = [part for part in (0, 2, 1) if fractions[part] > 0][:patients]
    for part in wanted:
        if counts[part] == 0:
            counts[int(np.argmax(counts))] -= 1
            counts[part] = 1
    for part in range(3):
        if part not in wanted:
            counts[0] += counts[part]
            counts[part] = 0
    return counts


def _reason(counts: Sequence[int], patients: int, fractions: Sequence[float]) -> str:
    shares = "/".join(f"{100 * fraction:g}" for fraction in fractions)
    text = f"{'/'.join(map(str, counts))} of {sum(counts)} cases ({shares} %, by patient)."
    if fractions[2] > 0 and counts[2] == 0:
        return f"{text} With one patient there is nothing left to validate or test on."
    if fractions[1] > 0 and counts[1] == 0:
        return (
            f"{text} With {patients} patients there is no validation part: the last weights count."
        )
    return text


def _assign(cases: Cases, targets: Mapping[str, Sequence[int]], k: int, seed: int) -> list[Ids]:
    """Deal patients to `k` parts so that each modality's counts come as near as can be.

    Patients with most cases first, since they fit in fewest places; equal ones in random order.
    """
    if seed < 0:
        raise UsageError(f"the seed of a split is {seed}; it must not be negative.")
    load: dict[str, dict[str, list[str]]] = {}
    for modality in sorted(cases):
        for case in cases[modality]:
            load.setdefault(case.patient, {}).setdefault(modality, []).append(case.id)
    names = sorted(load)
    names = [names[i] for i in np.random.default_rng([seed, k]).permutation(len(names))]
    names.sort(key=lambda name: (-len(load[name]), -sum(map(len, load[name].values()))))
    left = {m: np.array(target, float) for m, target in targets.items()}
    full = {m: np.maximum(np.array(target, float), 1e-9) for m, target in targets.items()}
    parts: list[dict[str, list[str]]] = [{m: [] for m in cases} for _ in range(k)]
    for name in names:
        need = {m: len(ids) for m, ids in load[name].items()}
        fits = sum(np.minimum(left[m].clip(0), n) for m, n in need.items())
        share = sum(left[m] / full[m] for m in need)
        best = int(np.lexsort((-np.asarray(share), -np.asarray(fits)))[0])
        for modality, ids in load[name].items():
            parts[best][modality] += ids
            left[modality][best] -= len(ids)
    return [{m: tuple(sorted(ids)) for m, ids in part.items()} for part in parts]


# Which cases a run learns from, chooses by and is tested on: drawn, held out, few-shot.


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
        told = f"{split.reasons.get(m, '')} {why}".strip()
        split = replace(split, reasons={**split.reasons, m: told})
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
    patients = {c.patient for found in cases.values() for c in found if c.held_out}
    held = {m: tuple(c.id for c in found if c.patient in patients) for m, found in cases.items()}
    free = {m: [c for c in found if c.patient not in patients] for m, found in cases.items()}
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
    whole = (train / (train + val or 1), val / (train + val or 1), 0.0)
    return {
        m: whole if any(c.held_out for c in found) else (train, val, test)
        for m, found in cases.items()
    }


def _random(options: DataConfig, cases: Labelled) -> Split:
    free, fixed = free_cases(options, cases)
    split = random_split(free, shares(options, cases), options.split_seed)
    test = {m: (*split.test.get(m, ()), *fixed.test[m]) for m in cases}
    reasons = {m: _told(fixed, split, m) for m in cases}
    return replace(split, test=test, reasons=reasons)


def _told(fixed: Split, split: Split, modality: str) -> str:
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
