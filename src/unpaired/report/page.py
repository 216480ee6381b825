"""The report: one HTML file that needs nothing else, and its pictures as PNG beside it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unpaired.colours import class_colours
from unpaired.files import atomic, write_text
from unpaired.leftovers import sweep
from unpaired.report import tables
from unpaired.report.curves import (
    consistency_curves,
    correlation_maps,
    embedding_map,
    loss_curves,
    validation_curves,
)
from unpaired.report.figures import Picture
from unpaired.report.html import Card, render
from unpaired.report.overlays import overlays
from unpaired.run.contents import RunContents, read_contents
from unpaired.run.scores import alarm_sentence, alarm_table, summarise
from unpaired.tables import printed

Content = Mapping[str, Any] | Sequence[Any] | None
"""What a section of the template prints; nothing where the section is left out."""


class Page:
    """Collects pictures and what is missing while the sections are built."""

    def __init__(self, run: RunContents) -> None:
        self.run = run
        self.pictures: list[Picture] = []
        self.missing = list(run.missing)

    def gallery(self, *pictures: Picture | None) -> list[Picture]:
        """Those that there are, kept for their files."""
        made = [picture for picture in pictures if picture is not None]
        self.pictures += made
        return made

    def part(self, build: Callable[["Page"], Content], name: str) -> Content:
        """A section, or a sentence where the run's files do not make sense."""
        try:
            return build(self)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            self.missing.append(f"{name}: the run's files do not fit together ({error!r}).")
            return None


def write_report(run: Path) -> Path:
    """Write RUN/report/report.html and its pictures; parts that are missing are named there.

    Raises:
        DataError: not a run folder.
        ResourceError: the report cannot be written.
    """
    page = Page(read_contents(run))
    html = build_page(page)
    folder = run / "report"
    sweep(run, deep=True)
    for picture in page.pictures:
        with atomic(folder / f"{picture.name}.png") as temporary:
            temporary.write_bytes(picture.png)
    write_text(folder / "report.html", html)
    return folder / "report.html"


def build_page(page: Page) -> str:
    """The page as text."""
    sections = {
        "results": page.part(_results, "results"),
        "overlays": page.part(_overlays, "overlays"),
        "training": page.part(_training, "training"),
        "semantics": page.part(_semantics, "semantics"),
        "plan": page.part(_plan, "plan"),
        "recipe": page.part(_recipe, "configuration"),
        "header": page.part(_header, "header"),
    }
    title = f"Report: {page.run.root.resolve().name}"
    changes = page.part(lambda page: {"notes": tables.change_notes(page.run)}, "changed inputs")
    return render(
        "report.html", title=title, changes=changes, missing=page.missing, **sections
    )  # fmt: skip


def _header(page: Page) -> Content:
    run = page.run
    model, steps = run.config.get("model", {}), run.steps
    summary = [" + ".join(run.modalities), ", ".join(run.classes[1:])]
    summary += [f"{model[key]}" for key in ("backbone", "variant") if key in model]
    if steps:
        planned = run.config.get("train", {}).get("steps")
        step = max(record["step"] for record in (*steps, *run.validations))
        summary.append(f"step {step}" + (f" of {planned}" if planned else ""))
    scores = run.evaluation.scores if run.evaluation is not None else ()
    cards = [_card(modality, part) for modality, part in summarise(scores).items()]
    return {
        "heading": run.root.resolve().name,
        "summary": " · ".join(part for part in summary if part),
        "cards": cards,
    }


def _card(modality: str, statistics: Mapping[str, Any]) -> Card:
    mean, cases = statistics["mean"], statistics["cases"]
    distance = printed("asd_mm").number(mean["asd_mm"]["mean"])
    beneath = f"ASD {distance} mm · {cases} test case{'s' * (cases != 1)}"
    return Card(modality, printed("dice").number(mean["dice"]["mean"]), "% Dice", beneath)


def _results(page: Page) -> Content:
    run = page.run
    if run.evaluation is None or not run.evaluation.scores:
        return None
    modalities = [
        {"name": m, "scores": tables.score_table(run, m), "cases": tables.case_table(run, m)}
        for m in summarise(run.evaluation.scores)
    ]
    notes = tables.score_notes(run)
    if run.evaluation.missing:
        page.missing.append(f"No prediction for {', '.join(run.evaluation.missing)}.")
    for name, what in run.evaluation.failures.items():
        page.missing.append(f"{name} was not scored: {what}")
    odd = alarm_table(run.evaluation)
    said = alarm_sentence(run.evaluation) if odd is not None else ""
    return {"modalities": modalities, "notes": notes, "odd": odd, "said": said}


def _overlays(page: Page) -> Content:
    pictures: dict[str, list[Picture]] = {}
    for modality in page.run.modalities:
        made, problems = overlays(page.run, modality)
        page.missing += problems
        if made:
            pictures[modality] = page.gallery(*made)
    if not pictures:
        return None
    return {"colours": class_colours(page.run.classes), "pictures": pictures}


def _training(page: Page) -> Content:
    run = page.run
    return page.gallery(loss_curves(run), *validation_curves(run), *consistency_curves(run))


def _semantics(page: Page) -> Content:
    maps, likeness = correlation_maps(page.run), embedding_map(page.run)
    if not maps and likeness is None:
        return None
    apart = tables.consistency_table(page.run)
    scales = max(1, len(maps) // max(1, len(page.run.modalities)))  # one line per modality
    lines = [page.gallery(*maps[i : i + scales]) for i in range(0, len(maps), scales)]
    return {"maps": lines, "likeness": page.gallery(likeness), "apart": apart}


def _plan(page: Page) -> Content:
    run = page.run
    choices = tables.plan_table(run) if run.plan else None
    cases = tables.split_table(run) if run.split else None
    return {"choices": choices, "cases": cases} if choices or cases else None


def _recipe(page: Page) -> Content:
    run = page.run
    counts = tables.parameter_counts(run)
    names = {"training": "trained", "test": "kept at test time"}
    parameters = "; ".join(f"{value:,} {names.get(key, key)}" for key, value in counts.items())
    environment = tables.environment_list(run) if run.environment else None
    if not (parameters or run.environment or run.config):
        return None
    return {
        "parameters": parameters,
        "environment": environment,
        "config": tables.config_lists(run),
    }
