"""Training, validation and test parts by patient: random, in folds, few-shot."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from unpaired.datasets.split_file import Cases, HasPatient, Ids, Split
from unpaired.errors import DataError, UsageError

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
    for modality, members in cases.items():
        _check_shares(each[modality])
        _check_ids(modality, members)
        patients = len({case.patient for case in members})
        targets[modality] = _counts(len(members), patients, each[modality])
        reasons[modality] = _reason(targets[modality], patients, each[modality])
    train, val, test = _assign(cases, targets, 3, seed)
    return Split(train, val, test, reasons)


def draw_cases(cases: Sequence[One], modality: str, count: int, seed: int = 0) -> list[One]:
    """`count` of a modality's cases at random, whole patients as far as the number allows.

    The draw is a function of the patients' names, the modality's and the seed, not of the order
    of `cases`; it shares no random numbers with the split of that seed.

    Raises:
        UsageError: there are fewer cases.
    """
    if not 0 < count <= len(cases):
        raise UsageError(
            f"data.cases asks for {count} cases of {modality}, but {len(cases)} can be drawn "
            "(labelled, and not held out for testing). Ask for fewer."
        )
    names = sorted({case.patient for case in cases})
    rng = np.random.default_rng([seed, zlib.crc32(modality.encode()), _DRAW])
    place = {names[i]: n for n, i in enumerate(rng.permutation(len(names)))}
    drawn = sorted(cases, key=lambda case: (place[case.patient], case.id))[:count]
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
    held = {c.patient for m, members in cases.items() for c in members if c.id in set(fixed[m])}
    free, targets = {}, {}
    for modality, members in cases.items():
        _check_ids(modality, members)
        free[modality] = [case for case in members if case.id not in set(fixed[modality])]
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


def _check_ids(modality: str, cases: Sequence[HasPatient]) -> None:
    ids = [case.id for case in cases]
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
