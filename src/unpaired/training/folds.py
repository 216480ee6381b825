"""Cross-validation: one configuration per fold, sharing one file of splits."""

from collections.abc import Mapping
from pathlib import Path

from unpaired.checks.survey import all_at_once
from unpaired.config import Config
from unpaired.datasets.dataset import Dataset
from unpaired.datasets.make_split import check_names, free_cases, shares
from unpaired.datasets.split import k_folds, random_split
from unpaired.datasets.split_file import splits_text, write_splits
from unpaired.errors import DataError, UsageError
from unpaired.files import read_json
from unpaired.training.prepare import opened


def fold_configs(
    config: Config, data: Mapping[str, Path | str | Dataset], out: Path, folds: int
) -> dict[str, Config]:
    """ "fold_0", ... -> its configuration. Without a splits file, one is drawn and written.

    The test part, that of the random split and the cases the data sets hold out, is the same in
    every fold: the folds share out the rest.

    Raises:
        UsageError: `out`, or the given file, holds another number of folds.
        DataError: too few patients for the folds.
    """
    check_names(config.data, data)
    path = out / "splits_final.json"
    drawn: dict[str, object] = {"cases": {}}  # the file holds what was drawn
    if config.data.splits is not None:
        path = Path(config.data.splits)
        _check_number(path, folds)
    else:
        _draw(config, data, path, folds)
    return {
        f"fold_{i}": config.model_copy(
            update={
                "data": config.data.model_copy(update={**drawn, "splits": str(path), "fold": i})
            }
        )
        for i in range(folds)
    }


def _check_number(path: Path, folds: int) -> None:
    entries = read_json(path)
    if not isinstance(entries, list):
        raise DataError(f"{path} must be a list with one entry a fold.")
    if len(entries) != folds:
        raise UsageError(
            f"--folds {folds}, but data.splits={path} holds {len(entries)}. Ask for as many folds "
            "as the file holds."
        )


def _draw(config: Config, data: Mapping[str, Path | str | Dataset], path: Path, folds: int) -> None:
    """Write the splits; drawn again from the same data they must be the same."""
    with all_at_once(data, config.data.workers):
        datasets = opened(data)
    cases = {m: [c for c in d.cases if c.label is not None] for m, d in datasets.items()}
    free, fixed = free_cases(config.data, cases)
    test = dict(fixed.test)
    parts = shares(config.data, cases)
    if any(part[2] for part in parts.values()):
        drawn = random_split(free, parts, config.data.split_seed).test
        test = {m: (*drawn.get(m, ()), *held) for m, held in test.items()}
    kept = {m: [*free[m], *(c for c in cases[m] if c.id in set(fixed.test[m]))] for m in cases}
    splits = k_folds(kept, folds, config.data.split_seed, test)
    if path.exists() and path.read_text(encoding="utf-8") != splits_text(splits):
        raise UsageError(
            f"{path} holds other folds than these data and settings give. Use the same --folds, "
            "data and data.split, or another --out."
        )
    write_splits(path, splits)
