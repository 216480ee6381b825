"""`unpaired check`: what is wrong with the data, worst first; nothing is changed."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unpaired.cli.options import ConfigFile, Data, Json, Preset, parse_data
from unpaired.cli.output import note, say, say_json, say_table
from unpaired.errors import DataError, UsageError
from unpaired.progress import ProgressBar
from unpaired.tables import Table

if TYPE_CHECKING:
    from unpaired.checks.check import Examined
    from unpaired.checks.finding import Finding
    from unpaired.config import Config
    from unpaired.data.plan import Plan

COLUMNS = ("severity", "modality", "case", "what", "amount", "mend", "file")


def command(
    path: Annotated[
        Path | None,
        typer.Argument(help="An image, a DICOM series or a folder of images, instead of --data."),
    ] = None,
    data: Data = None,
    splits: Annotated[
        Path | None,
        typer.Option("--splits", metavar="FILE", help="A splits_final.json to hold against them."),
    ] = None,
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, help="Ask whether so many folds can be made.")
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes; 0: all in this one.")
    ] = 2,
    fix_headers: Annotated[
        Path | None,
        typer.Option("--fix-headers", metavar="OUT", help="Write copies with mended headers."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with pictures.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look for faults in data sets or files; exit code 3 if there are. Nothing is changed.

    With --preset or --config also says what a training with these settings needs.
    """
    roots = _roots(path, data)
    _there(path, splits)
    if fix_headers is not None:
        from unpaired.checks.mend import check_out

        check_out([path] if path is not None else roots.values(), fix_headers)
    settings = _settings(preset, config, roots)
    done = _examine(path, roots, splits, folds, workers)
    findings = _findings(done, workers, settings)
    if html is not None:
        from unpaired.report.check_page import write_check_page

        write_check_page(html, done, findings)
    if as_json:
        say_json(findings)
    elif findings:
        rows = [[getattr(finding, name) for name in COLUMNS] for finding in findings]
        say_table(Table(COLUMNS, rows, names=len(COLUMNS)))
    if fix_headers is not None:
        _fix(done, fix_headers, quiet=as_json)
    errors = sum(f.severity == "error" for f in findings)
    if not as_json:
        page = f" The page is {html}." if html is not None else ""
        say(f"{errors} errors, {len(findings) - errors} other findings.{page}")
    if errors:
        raise typer.Exit(DataError.exit_code)


def _roots(path: Path | None, data: list[str] | None) -> dict[str, Path]:
    if (path is None) == (not data):
        raise UsageError("give either --data NAME=FOLDER (once per modality) or one PATH.")
    return {} if path is not None else parse_data(data)


def _settings(preset: str | None, config: Path | None, roots: dict[str, Path]) -> "Config | None":
    """Of the training that is asked about, refused before the scans are read where it would be."""
    if preset is None and config is None:
        return None
    from unpaired.config import load_config
    from unpaired.datasets.make_split import check_modalities, check_names

    settings = load_config(preset, config, [])
    if roots:
        check_modalities(settings.modalities, roots)
        check_names(settings.data, roots)
    return settings


def _examine(
    path: Path | None,
    roots: dict[str, Path],
    splits: Path | None,
    folds: int | None,
    workers: int,
) -> "Examined":
    from unpaired.checks.check import examine_path, examine_roots

    if path is not None and (splits is not None or folds is not None):
        raise UsageError("--splits and --folds need --data NAME=FOLDER, once per modality.")
    with ProgressBar("check") as progress:
        if path is not None:
            return examine_path(path, progress, workers)
        return examine_roots(roots, progress, workers, splits, folds)


def _findings(done: "Examined", workers: int, settings: "Config | None") -> list["Finding"]:
    """What was found, what preparing and training take, and what their grid would lose."""
    from unpaired.checks.finding import worst_first

    findings = [*done.findings, *_preparation(done, workers)]
    if not any(scan.voxels for scan in done.scans):
        return worst_first(findings)

    from unpaired.checks.grid import default_plan, lost_classes

    if settings is None:
        plan = default_plan(done.datasets, done.scans)
    else:
        plan, needs = _training(done, settings)
        findings += needs
    if plan is not None:
        findings += lost_classes(done.datasets, done.scans, plan, workers)
    return worst_first(findings)


def _fix(done: "Examined", out: Path, quiet: bool) -> None:
    """Mended copies; the list is in OUT as well."""
    from unpaired.checks.mend import LIST, mend_headers

    listed = mend_headers(done.datasets, out)
    if quiet:
        return
    rows = [
        [one.modality, one.case, "; ".join(one.done), "; ".join(one.left), one.copy or one.file]
        for one in listed
    ]
    if rows:
        say_table(Table(["modality", "case", "mended", "left as it is", "file"], rows, names=5))
    copies = sum(bool(one.copy) for one in listed)
    say(f"Mended copies: {copies}, in {out}; the list is {out / LIST}.")


def _training(done: "Examined", settings: "Config") -> tuple["Plan | None", list["Finding"]]:
    """The grid of a training with these settings, and what it takes; nothing where the data do not
    allow one."""
    from unpaired.checks.resources import patch_findings, training_finding
    from unpaired.datasets.planes import orient
    from unpaired.training.forecast import training_needs

    bad = {
        m: {f.case for f in done.scans if f.modality == m and not f.shape} for m in done.datasets
    }
    try:
        plan, ahead = training_needs(settings, done.datasets, bad)
    except DataError as error:
        note(f"what a training needs cannot be said: {error}")
        return None, []
    needed = training_finding(
        ahead.memory_bytes, ahead.memory_available_bytes, ahead.seconds_per_step,
        settings.train.steps, ahead.device,
    )  # fmt: skip
    turn = partial(orient, slice_axis=plan.slice_axis, planes=plan.planes)
    small = patch_findings(done.scans, plan.spacing_mm, turn, plan.patch)
    return plan, [needed, *small]


def _there(*paths: Path | None) -> None:
    for path in paths:
        try:
            if path is not None and not path.exists() and not path.is_symlink():
                raise DataError(f"{path} does not exist.")
        except OSError as error:  # such as a name of 300 characters
            raise DataError(f"cannot open {path}: {error.strerror}.") from error


def _preparation(done: "Examined", workers: int) -> Sequence["Finding"]:
    """What preparing takes, said beforehand."""
    import psutil

    from unpaired.checks.resources import preparation_finding, preparation_resources

    needed = preparation_resources(done.datasets, done.scans)
    if needed is None:
        return []
    memory, disk = psutil.virtual_memory().available, psutil.disk_usage(".").free
    return [preparation_finding(needed, workers, memory, disk)]
