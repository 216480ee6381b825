"""The table of `unpaired check` as a page: worst first, a picture beside each finding."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from unpaired.checks.check import Examined, Facts, Finding
from unpaired.checks.labels import table as coverage_table
from unpaired.datasets.dataset import Case, Dataset
from unpaired.datasets.split_file import PARTS
from unpaired.files import shown, write_text
from unpaired.report.document import document, footer
from unpaired.report.figures import Picture, class_colours
from unpaired.report.markup import Markup, note, number, section, table, tag
from unpaired.report.tables import swatch
from unpaired.report.thumbnails import Scan, all_classes, open_scan, thumbnail

MOST_PICTURES = 200
"""A page of more is slow to open."""
_NAMES = {"error": "errors", "warning": "warnings", "note": "notes"}


def write_check_page(path: Path, done: Examined, findings: Sequence[Finding]) -> None:
    """Write one self-contained HTML file.

    Args:
        done: what was examined; files are read again for the pictures, one case at a time.
        findings: the rows, worst first.

    Raises:
        ResourceError: the file cannot be written.
    """
    pictures = _pictures(done, findings)
    body = [_header(done, findings), _legend(done)]
    if findings:
        rows = [_row(one, pictures.get(n)) for n, one in enumerate(findings)]
        head = ("", "Where", "What was found, and the mend", "How much", "Picture")
        content: list[object] = [table(head, rows, "findings", "findings")]
    else:
        content = [tag("p", "Nothing was found.")]
    with_case = sum(bool(one.case) for one in findings)
    if with_case > MOST_PICTURES:
        content.append(note(f"Pictures of the first {MOST_PICTURES} findings only."))
    main = [section("Findings, worst first", *content, anchor="findings"), *_coverage(done)]
    write_text(path, document("Check of data", *body, tag("main", *main), footer()))


def _pictures(done: Examined, findings: Sequence[Finding]) -> dict[int, Picture]:
    """Row -> picture; rows of one case follow each other, so that it is read once."""
    known: dict[tuple[str, str], tuple[Case, Dataset]] = {
        (modality, case.id): (case, dataset)
        for modality, dataset in done.datasets.items()
        for case in dataset.cases
    }
    wanted = [n for n, one in enumerate(findings) if (one.modality, one.case) in known]
    wanted = wanted[:MOST_PICTURES]
    classes = all_classes(done.datasets)
    found: dict[int, Picture] = {}
    last: tuple[tuple[str, str, str], Scan | None] | None = None
    for n in sorted(wanted, key=lambda n: (findings[n].modality, findings[n].case, n)):
        one = findings[n]
        case, dataset = known[one.modality, one.case]
        channel = one.file if one.file in map(shown, case.images) else ""
        key = (one.modality, one.case, channel)
        if last is None or last[0] != key:
            last = (key, open_scan(case, dataset, one.file, classes))
        if last[1] is not None:
            png, words = thumbnail(last[1], one)
            alt = f"{words} of {shown(one.case)}, label outlined"
            found[n] = Picture(f"finding_{n}", png, alt, words.capitalize())
    return found


def _row(one: Finding, picture: Picture | None) -> list[object]:
    place = [tag("strong", one.modality)] if one.modality else []
    if one.case:
        place += [tag("span", shown(one.case), cls="case")]
    return [
        tag("td", tag("span", one.severity, cls=f"chip {one.severity}")),
        tag("td", *place, cls="where"),
        tag(
            "td",
            tag("p", one.what[:1].upper() + one.what[1:] + "."),
            tag("p", one.mend[:1].upper() + one.mend[1:] + ".", cls="mend"),
            tag("p", one.file, cls="file") if one.file else "",
            cls="what",
        ),
        tag("td", one.amount, cls="amount"),
        tag("td", picture.html() if picture else "", cls="thumb"),
    ]


def _header(done: Examined, findings: Sequence[Finding]) -> Markup:
    counts = Counter[str](one.severity for one in findings)
    cards = [
        tag("div", tag("p", name, cls="name"), tag("p", counts[key], cls=f"big {key}"), cls="card")
        for key, name in _NAMES.items()
    ]
    sets = [
        f"{modality or 'images'}: {len(dataset.cases)} cases"
        for modality, dataset in done.datasets.items()
    ]
    return tag(
        "header",
        tag("p", "unpaired · check of data", cls="brand"),
        tag("h1", " + ".join(m for m in done.datasets if m) or "Images"),
        tag("p", " · ".join(sets), cls="facts"),
        tag("div", *cards, cls="cards"),
    )


def _legend(done: Examined) -> Markup:
    """The colours of the outlines; equal names have equal colours in every modality."""
    classes = all_classes(done.datasets)
    if len(classes) == 2:
        return Markup("")
    colours = class_colours(classes)
    items = [tag("li", swatch(colour), name, cls="key") for name, colour in colours.items()]
    return tag("ul", *items, cls="legend")


def _coverage(done: Examined) -> list[Markup]:
    parts = []
    for modality, dataset in done.datasets.items():
        facts = [fact for fact in done.facts if fact.modality == dataset.modality]
        split = _coverage_by_part(modality, dataset, facts, done.folds)
        rows = [
            [name, number(f"{cases} of {of}"), number(_millilitres(size)), *split.get(name, ())]
            for name, cases, of, size in coverage_table(dataset, facts)
        ]
        if rows:
            head = ("Class", "Labels that hold it", "Median size", *split.get("", ()))
            parts += [
                tag("h3", modality),
                table(head, rows, f"classes of {modality}", "numbers narrow"),
            ]
    return [section("Classes", *parts, anchor="classes")] if parts else []


def _coverage_by_part(
    modality: str,
    dataset: Dataset,
    facts: Sequence[Facts],
    folds: Sequence[Mapping[tuple[str, str], str]],
) -> dict[str, list[object]]:
    """Class -> its cells, one a part of each fold; "" -> the heads of these columns."""
    cells: dict[str, list[object]] = defaultdict(list)
    for fold, parts in enumerate(folds):
        for part in PARTS:
            own = [fact for fact in facts if parts.get((modality, fact.case)) == part]
            if not own:
                continue
            cells[""].append(part if len(folds) == 1 else f"Fold {fold}, {part}")
            for name, cases, of, _ in coverage_table(dataset, own):
                cells[name].append(number(f"{cases} of {of}"))
    return cells


def _millilitres(size: float) -> str:
    if size != size:
        return "-"
    return f"{size:,.0f} ml" if size >= 100 else f"{size:.3g} ml"
