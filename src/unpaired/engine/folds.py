"""Cross-validation: one configuration per fold, sharing one file of splits."""

from collections.abc import Mapping
from pathlib import Path

from unpaired.config import Config
from unpaired.data.sources import open_dataset
from unpaired.data.split import k_folds, random_split, write_splits
from unpaired.errors import UsageError


def fold_configs(
    config: Config, data: Mapping[str, Path], out: Path, folds: int
) -> dict[str, Config]:
    """ "fold_0", ... -> its configuration. Without a splits file, one is drawn and written.

    The test part of the random split is the same in every fold: the folds share out the rest.

    Raises:
        UsageError: `out` holds another number of folds.
        DataError: too few patients for the folds.
    """
    path = out / "splits_final.json"
    if config.data.splits is not None:
        path = Path(config.data.splits)
    else:
        _draw(config, data, path, folds)
    return {
        f"fold_{i}": config.model_copy(
            update={"data": config.data.model_copy(update={"splits": str(path), "fold": i})}
        )
        for i in range(folds)
    }


def _draw(config: Config, data: Mapping[str, Path], path: Path, folds: int) -> None:
    """Write the splits; drawn again from the same data they must be the same."""
    datasets = {m: open_dataset(m, root) for m, root in data.items()}
    cases = {m: [c for c in d.cases if c.label is not None] for m, d in datasets.items()}
    seed = config.data.split_seed
    test = random_split(cases, config.data.split, seed).test if config.data.split[2] else None
    splits = k_folds(cases, folds, seed, test)
    before = path.read_bytes() if path.exists() else None
    draft = path.with_name(".splits_new.json")
    write_splits(draft, splits)
    if before is not None and draft.read_bytes() != before:
        draft.unlink()
        raise UsageError(
            f"{path} holds other folds than these data and settings give. Use the same --folds, "
            "data and data.split, or another --out."
        )
    draft.replace(path)
