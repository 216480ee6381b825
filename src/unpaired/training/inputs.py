"""Whether a run goes on with what it began with: every input by its sha256."""

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from unpaired.config import Config
from unpaired.data.cache import PreparedSet, record_path
from unpaired.datasets.dataset import Case, Dataset
from unpaired.errors import DataError, UsageError
from unpaired.files import read_json
from unpaired.progress import Progress
from unpaired.run import RunFolder
from unpaired.run.inputs import SPLIT, Inputs, Named, digests_of, inputs_of, read_inputs

log = logging.getLogger(__name__)
SPLITS = "data.splits"
"""The input that the run's own split was taken from."""


def all_inputs(
    datasets: Mapping[str, Dataset], config: Config, run: RunFolder, cases: Iterable[Case]
) -> Named:
    """Everything that a training reads, by name; a file that is not there any more is left out."""
    named = {
        f"{m} {path.name}": (path,) for m, dataset in datasets.items() for path in dataset.files
    }
    single = {SPLIT: run.files.splits}
    if config.data.splits is not None:
        single[SPLITS] = Path(config.data.splits)
    if config.model.pretrained is not None:
        single["model.pretrained"] = Path(config.model.pretrained)
    if config.train.init_from is not None:
        single["train.init_from"] = RunFolder(config.train.init_from).files.kept
    named |= {name: (path,) for name, path in single.items() if path.is_file()}
    return named | inputs_of(cases)


def check_inputs(
    named: Named, run: RunFolder, step: int, accept: bool, progress: Progress | None = None
) -> tuple[dict[str, str], list[str]]:
    """Compare with what the run began with.

    Args:
        accept: go on with changes; they are recorded in inputs.json, and said.

    Returns:
        path -> sha256 of every file of an input, and the names of what was accepted.

    Raises:
        UsageError: inputs changed and that is not accepted; all are named.
    """
    before, known = read_inputs(run.files.inputs), dict[str, str]()
    if not before.files:
        before = _from_cache(run, named)
    now = digests_of(named, known, progress)
    changed = before.changed(now)
    if changed and not accept:
        raise UsageError(
            f"{run.root} was trained on other data; changed since it began:\n"
            + "\n".join(f"  {name}" for name in changed)
            + f"\n  Restore {'it' if len(changed) == 1 else 'them'}, or choose another --out. "
            "--accept-changes goes on all the same and records it in the run."
        )
    if changed:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        note = {"when": when, "step": step, "changed": changed}
        Inputs({**before.files, **now}, (*before.accepted, note)).write(run.files.inputs)
        log.warning("from step %d on with changed inputs: %s", step, ", ".join(changed))
    return known, changed


def record_inputs(named: Named, run: RunFolder, prepared: PreparedSet) -> None:
    """Write inputs.json; the sha256 of images and labels is that of their preparation."""
    known = {
        str(source["path"]): str(source["sha256"])
        for cases in prepared.cases.values()
        for case in cases
        for source in case.record["sources"]
    }
    before = read_inputs(run.files.inputs) if run.begun else Inputs()
    Inputs(digests_of(named, known), before.accepted).write(run.files.inputs)


def _from_cache(run: RunFolder, named: Named) -> Inputs:
    """Of a run that an earlier version began: what the prepared cases say of their files."""
    found: dict[str, str] = {}
    for m, cases in run.data.cases.items():
        for case, known_case in cases.items():
            own = {n: named[n] for n in inputs_of([known_case]) if n in named}
            try:
                sources = read_json(record_path(run.data.prepared / m, case))["sources"]
                digests = iter([str(source["sha256"]) for source in sources])
                as_then = {n: [next(digests) for _ in paths] for n, paths in own.items()}
            except (DataError, KeyError, TypeError, StopIteration, RuntimeError):
                continue  # there is nothing to compare with
            pairs = (zip(paths, as_then[n], strict=True) for n, paths in own.items())
            found |= digests_of(own, {str(p): d for pair in pairs for p, d in pair})
    return Inputs(found)
