"""`import_source`: an archive as downloaded -> one nnU-Net folder a modality, restartable."""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unpaired.datasets.archive import ArchiveCase, ArchiveSet, Options, Source
from unpaired.datasets.locate import holds
from unpaired.datasets.nnunet import check_ids
from unpaired.datasets.sources import IMPORTS
from unpaired.errors import DataError, UsageError
from unpaired.files import printable, read_json
from unpaired.importing import folder as target
from unpaired.importing.folder import RECORD, SPLITS, WORK, still_complete
from unpaired.importing.unpack import unpacked
from unpaired.importing.write import stage_case
from unpaired.leftovers import sweep
from unpaired.names import did_you_mean
from unpaired.progress import Progress
from unpaired.workers import Work, share_out


@dataclass(frozen=True)
class ImportOptions(Options):
    """What the caller may choose of an import, beside what a source asks.

    Attributes:
        literature_split: the cases that the literature tests on go to imagesTs and labelsTs.
        allow_swapped: organs on the wrong side of the body are noted instead of refused.
        link: hard links instead of copies where a file stays as it is.
        workers: cases at a time.
    """

    literature_split: bool = False
    allow_swapped: bool = False
    link: bool = False
    workers: int = 2


@dataclass(frozen=True)
class Outcome:
    """What an import did.

    Attributes:
        folders: modality -> its data set, for `--data`.
        cases: modality -> cases that are there now.
        kept: cases that an earlier call had already written.
        failed: "modality/case" -> why it was not written.
        dropped: what of the archive is not imported, and why.
        notes: "modality/case" -> what was odd or changed.
        splits: splits_final.json, where the archive or the literature says parts.
    """

    folders: dict[str, Path] = field(default_factory=dict)
    cases: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    splits: Path | None = None


def import_source(
    source: str,
    archive: Path,
    out: Path,
    options: ImportOptions | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Write every modality of an archive to `out/<modality>` in the nnU-Net raw layout.

    A case appears whole or not at all; a second call keeps what is whole. One bad case does not
    stop the others: it is named in `Outcome.failed`.

    Args:
        source: a key of `IMPORTS`.
        archive: the folder, .zip or .tar(.gz) as downloaded.
        progress: called as progress(done, total, what).

    Raises:
        UsageError: an unknown source, options it does not take, `out` holds something else.
        DataError: the archive is damaged or not of this layout.
        ResourceError: `out` cannot be written.
    """
    options = options or ImportOptions()
    about = _known(source, options)
    settings = _settings(source, options)
    scratch = out / f".unpacked-{re.sub(r'[^A-Za-z0-9]+', '-', archive.name)}"
    sweep(out, deep=True)
    before = earlier_import(archive, out, settings, options.modality)
    if before is not None:
        for left in (scratch, *(out / key / WORK for key in before)):  # killed at the very end
            shutil.rmtree(left, ignore_errors=True)
        return kept_outcome(out, before)
    with unpacked(archive, scratch, progress=progress) as root:
        sets = _find(source, about, root, options)
        if options.literature_split:
            sets = [_literature(one, about) for one in sets]
        _check(sets, root)
        base = root if root.is_dir() else root.parent
        call = _Call(source, archive, base, out, options, progress)
        outcome = _write_sets(call, about, sets)
    if not outcome.failed:
        shutil.rmtree(scratch, ignore_errors=True)
    return outcome


def earlier_import(
    archive: Path, out: Path, settings: Mapping[str, Any], modality: str | None
) -> dict[str, dict[str, Any]] | None:
    """Modality -> provenance.json, where an earlier call imported just this archive.

    None if anything of it is missing, changed or failed, or the archive is another one; else it
    need not be unpacked again.
    """
    records: dict[str, dict[str, Any]] = {}
    for file in sorted(out.glob(f"*/{RECORD}")):
        try:
            record = read_json(file)
        except DataError:
            return None
        if isinstance(record, dict) and isinstance(record.get("stamp"), dict):
            records[file.parent.name] = record
    stamp = stamp_of(archive, list(records), modality)
    complete = stamp is not None and bool(records) and all(
        _is_same(record, stamp, settings) and _is_complete(out / key, record)
        for key, record in records.items()
    )  # fmt: skip
    return records if complete and _splits_are_there(out, records) else None


def stamp_of(archive: Path, keys: list[str], modality: str | None) -> dict[str, Any] | None:
    """What tells an archive from another, and what was made of it; None for a folder.

    Args:
        keys: the modalities that were found in it.
        modality: the name that the caller chose, if any.
    """
    if not archive.is_file():
        return None
    about = archive.stat()
    made = {"sets": sorted(keys), "modality": modality}
    return {"bytes": about.st_size, "mtime_ns": about.st_mtime_ns, **made}


def kept_outcome(out: Path, records: Mapping[str, Mapping[str, Any]]) -> Outcome:
    """What the earlier call did."""
    cases = {key: record["cases"] for key, record in records.items()}
    notes = {f"{k}/{i}": c["notes"] for k, own in cases.items() for i, c in own.items()}
    return Outcome(
        {key: out / key for key in records},
        {key: len(own) for key, own in cases.items()},
        sum(map(len, cases.values())),
        {},
        list(dict.fromkeys(text for record in records.values() for text in record["dropped"])),
        {name: texts for name, texts in notes.items() if texts},
        out / SPLITS if (out / SPLITS).is_file() else None,
    )


@dataclass(frozen=True)
class _Call:
    source: str
    archive: Path
    root: Path
    out: Path
    options: ImportOptions
    progress: Progress | None


def _splits_are_there(out: Path, records: Mapping[str, Mapping[str, Any]]) -> bool:
    parts = {c["part"] for record in records.values() for c in record["cases"].values()}
    return "val" not in parts or (out / SPLITS).is_file()


def _is_same(
    record: Mapping[str, Any], stamp: Mapping[str, Any], settings: Mapping[str, Any]
) -> bool:
    before = record.get("settings", {})
    same = all(before.get(name) == value for name, value in settings.items())
    return same and record["stamp"] == stamp and not record.get("failed")


def _is_complete(root: Path, record: Mapping[str, Any]) -> bool:
    try:
        cases = record["cases"].values()
        listed = (root / "dataset.json").is_file()
        return listed and all(still_complete(root, case["files"]) for case in cases)
    except (AttributeError, KeyError, OSError, TypeError):
        return False


def _settings(source: str, options: ImportOptions) -> dict[str, Any]:
    classes, literature_split = list(options.classes), options.literature_split
    return {"source": source, "classes": classes, "literature_split": literature_split}


def _known(source: str, options: ImportOptions) -> Source:
    about = IMPORTS.get(source)
    if about is None:
        hint = did_you_mean(source, IMPORTS)
        raise UsageError(f"there is no source {source!r}.{hint} Choose from {', '.join(IMPORTS)}.")
    if options.classes and not about.takes_classes:
        raise UsageError(f"{source} has no --classes: all of its labels are imported.")
    if options.modality and not about.one_set:
        raise UsageError(f"{source} says its modalities itself; leave --modality out.")
    if options.literature_split and not (about.literature or about.says_parts):
        raise UsageError(f"no split of {source} is known from the literature.")
    return about


def _find(source: str, about: Source, root: Path, options: Options) -> list[ArchiveSet]:
    if not about.looks_like(root):
        fits = [name for name, other in IMPORTS.items() if other.looks_like(root)]
        hint = f" It looks like {' or '.join(fits)}." if fits else ""
        raise DataError(
            f"{printable(root)} is not the layout of {source}: looked for {about.wanted}; "
            f"there is {holds(root) if root.is_dir() else 'one file'}.{hint}"
        )
    return [one for one in about.find(root, options) if one.cases]


def _literature(one: ArchiveSet, about: Source) -> ArchiveSet:
    tested = about.literature.get(one.key, frozenset())
    cases = tuple(
        replace(case, part="test", held_out=True)
        if case.label is not None and (_number(case.id) in tested or case.part == "test")
        else case
        for case in one.cases
    )
    return replace(one, cases=cases)


def _number(case: str) -> str:
    """The archive's number at the end of a case id, without leading zeros."""
    match = re.search(r"(\d+)$", case)
    return match[1].lstrip("0") if match else case


def _check(sets: Sequence[ArchiveSet], root: Path) -> None:
    if not sets:
        raise DataError(f"{printable(root)} holds no case that could be imported.")
    for one in sets:
        ids = [case.id for case in one.cases]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise DataError(f"{printable(root)}: the case {twice[0]!r} of {one.key} comes twice.")
        check_ids(ids, root)


def _write_sets(call: _Call, about: Source, sets: Sequence[ArchiveSet]) -> Outcome:
    settings = _settings(call.source, call.options)
    plans = {one.key: target.SetFolder(call.out / one.key, settings, one) for one in sets}
    for plan in plans.values():
        plan.claim()
    todo = {key: plan.missing(call.root) for key, plan in plans.items()}
    total = sum(len(one.cases) for one in sets)
    kept = total - sum(map(len, todo.values()))
    failed = _write_cases(call, plans, todo, kept, total)
    stamp = stamp_of(call.archive, list(plans), call.options.modality)
    for key, plan in plans.items():
        why = {i.partition("/")[2]: text for i, text in failed.items() if i.startswith(f"{key}/")}
        plan.finish(about.reference, call.archive, why, stamp)
    return Outcome(
        {key: plan.root for key, plan in plans.items()},
        {key: len(plan.records) for key, plan in plans.items()},
        kept,
        failed,
        [text for one in sets for text in one.dropped],
        {
            f"{key}/{case}": record["notes"]
            for key, plan in plans.items()
            for case, record in plan.records.items()
            if record["notes"]
        },
        target.write_parts(call.out, plans),
    )


def _write_cases(
    call: _Call,
    plans: Mapping[str, target.SetFolder],
    todo: Mapping[str, Sequence[ArchiveCase]],
    done: int,
    total: int,
) -> dict[str, str]:
    """Stage cases in parallel and move each into place; what failed, and why."""
    failed: dict[str, str] = {}
    jobs = [(key, case) for key, cases in todo.items() for case in cases]
    for key, case, record in _staged(call, plans, jobs):
        done += 1
        if isinstance(record, str):
            failed[f"{key}/{case}"] = record
        else:
            plans[key].commit(case, record)
        if call.progress is not None:
            call.progress(done, total, f"{key}/{case}")
    return dict(sorted(failed.items()))


def _staged(
    call: _Call, plans: Mapping[str, target.SetFolder], jobs: Sequence[tuple[str, ArchiveCase]]
) -> Iterator[tuple[str, str, dict[str, Any] | str]]:
    """What `_stage` gives for every job, in the order in which they end."""
    workers = max(1, min(call.options.workers, len(jobs)))
    bare = replace(call, progress=None)  # no other process can use the bar
    given = [(bare, plans[key].place(), key, case) for key, case in jobs]
    if workers == 1:
        yield from (_stage(*one) for one in given)
        return
    names = [f"{key}/{case.id}" for key, case in jobs]
    again = "; imported cases are kept"
    yield from share_out(Work(_stage, given, names, "importing", again), workers)


def _stage(
    call: _Call, place: target.Place, key: str, case: ArchiveCase
) -> tuple[str, str, dict[str, Any] | str]:
    stage = place.fresh(case.id)
    try:
        options = call.options
        record = stage_case(
            case, place.labels, call.root, stage, options.allow_swapped, options.link
        )
    except DataError as error:
        shutil.rmtree(stage, ignore_errors=True)
        return key, case.id, str(error)
    return key, case.id, record
