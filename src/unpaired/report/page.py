"""The report: one HTML file that needs nothing else, and its pictures as PNG beside it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from unpaired.engine.evaluate import summarise
from unpaired.files import atomic, write_text
from unpaired.report import tables
from unpaired.report.curves import consistency_curves, loss_curves, validation_curves
from unpaired.report.document import document, footer
from unpaired.report.figures import Picture, class_colours
from unpaired.report.heatmaps import correlation_maps, embedding_map
from unpaired.report.markup import Markup, folded, note, section, tag
from unpaired.report.overlays import overlays
from unpaired.report.run import Run, open_run
from unpaired.tables import printed


class Page:
    """Collects pictures and what is missing while the sections are built."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.pictures: list[Picture] = []
        self.missing = list(run.missing)

    def gallery(self, pictures: Sequence[Picture | None], cls: str = "gallery") -> Markup:
        """Pictures side by side as far as the screen is wide."""
        found = [picture for picture in pictures if picture is not None]
        self.pictures += found
        return tag("div", *(picture.html() for picture in found), cls=cls) if found else Markup("")

    def part(self, build: Callable[["Page"], Markup], name: str) -> Markup:
        """A section, or a sentence where the run's files do not make sense."""
        try:
            return build(self)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            self.missing.append(f"{name}: the run's files do not fit together ({error!r}).")
            return Markup("")


def write_report(run: Path) -> Path:
    """Write RUN/report/report.html and its pictures; parts that are missing are named there.

    Raises:
        DataError: not a run folder.
        ResourceError: the report cannot be written.
    """
    page = Page(open_run(run))
    html = build_page(page)
    folder = run / "report"
    for picture in page.pictures:
        with atomic(folder / f"{picture.name}.png") as temporary:
            temporary.write_bytes(picture.png)
    write_text(folder / "report.html", html)
    return folder / "report.html"


def build_page(page: Page) -> str:
    """The whole page as text."""
    parts = [
        page.part(_results, "results"),
        page.part(_overlays, "overlays"),
        page.part(_training, "training"),
        page.part(_semantics, "semantics"),
        page.part(_plan, "plan"),
        page.part(_facts, "configuration"),
    ]
    head = page.part(_header, "header")
    title = f"Report: {page.run.root.resolve().name}"
    return document(title, head, _missing(page), tag("main", *parts), footer())


def _header(page: Page) -> Markup:
    run = page.run
    model, steps = run.config.get("model", {}), run.steps
    facts = [" + ".join(run.modalities), ", ".join(run.classes[1:])]
    facts += [f"{model[key]}" for key in ("backbone", "variant") if key in model]
    if steps:
        planned = run.config.get("train", {}).get("steps")
        step = max(record["step"] for record in (*steps, *run.validations))
        facts.append(f"step {step}" + (f" of {planned}" if planned else ""))
    cards = []
    if run.evaluation is not None:
        for modality, found in summarise(run.evaluation.scores).items():
            cards.append(_card(modality, found["mean"], found["cases"]))
    return tag(
        "header",
        tag("p", "unpaired · report of a run", cls="brand"),
        tag("h1", run.root.resolve().name),
        tag("p", " · ".join(fact for fact in facts if fact), cls="facts"),
        tag("div", *cards, cls="cards") if cards else "",
    )


def _card(modality: str, mean: dict, cases: int) -> Markup:
    distance = printed("asd_mm").number(mean["asd_mm"]["mean"])
    return tag(
        "div",
        tag("p", modality, cls="name"),
        tag("p", printed("dice").number(mean["dice"]["mean"]), tag("small", " % Dice"), cls="big"),
        tag("p", f"ASD {distance} mm · {cases} test case{'s' * (cases != 1)}", cls="small"),
        cls="card",
    )


def _missing(page: Page) -> Markup:
    if not page.missing:
        return Markup("")
    items = [tag("li", sentence) for sentence in page.missing]
    return tag(
        "aside", tag("h2", "What this report lacks"), tag("ul", *items), cls="missing", role="note"
    )


def _results(page: Page) -> Markup:
    run = page.run
    if run.evaluation is None or not run.evaluation.scores:
        return Markup("")
    content: list[object] = []
    for modality in summarise(run.evaluation.scores):
        content += [tag("h3", modality), tables.score_table(run, modality)]
        content.append(folded("Every case, lowest Dice first", tables.case_table(run, modality)))
    content.append(tables.score_notes(run))
    if run.evaluation.missing:
        page.missing.append(f"No prediction for {', '.join(run.evaluation.missing)}.")
    for name, what in run.evaluation.failures.items():
        page.missing.append(f"{name} was not scored: {what}")
    return section("Results on the test cases", *content, anchor="results")


def _overlays(page: Page) -> Markup:
    content: list[object] = []
    for modality in page.run.modalities:
        pictures, problems = overlays(page.run, modality)
        page.missing += problems
        if pictures:
            content += [tag("h3", modality), page.gallery(pictures, "gallery overlays")]
    if not content:
        return Markup("")
    colours = class_colours(page.run.classes)
    legend = [tag("li", tables.swatch(colour), name, cls="key") for name, colour in colours.items()]
    words = (
        "Line: truth. Filled: prediction. The slice shows most of all classes together. "
        "R, L, A, P, S: the patient's right, left, front, back and head."
    )
    return section(
        "Best, median and worst case",
        tag("ul", *legend, cls="legend"), *content, note(words), anchor="overlays",
    )  # fmt: skip


def _training(page: Page) -> Markup:
    run = page.run
    pictures = [loss_curves(run), *validation_curves(run), *consistency_curves(run)]
    gallery = page.gallery(pictures)
    return section("Training", gallery, anchor="training") if gallery else gallery


def _semantics(page: Page) -> Markup:
    maps, likeness = correlation_maps(page.run), embedding_map(page.run)
    if not maps and likeness is None:
        return Markup("")
    scales = max(1, len(maps) // max(1, len(page.run.modalities)))  # one line per modality
    words = (
        "Semantic correlations E (Eq. 8), mean over the validation slices: row i, column j is how "
        "class j answers to class i. Scale 1 is the coarsest. The maps of one scale share their "
        "colours, so that modalities can be compared by eye."
    )
    return section(
        "What the modalities share",
        *(page.gallery(maps[i : i + scales], "gallery maps") for i in range(0, len(maps), scales)),
        note(words) if maps else "",
        page.gallery([likeness], "gallery"), anchor="semantics",
    )  # fmt: skip


def _plan(page: Page) -> Markup:
    run, content = page.run, []
    if run.plan:
        content += [tables.plan_table(run)]
    if run.split:
        content += [tag("h3", "Cases"), tables.split_table(run)]
    return section("Plan", *content, anchor="plan") if content else Markup("")


def _facts(page: Page) -> Markup:
    run, content = page.run, []
    counts = tables.parameter_counts(run)
    if counts:
        names = {"training": "trained", "test": "kept at test time"}
        words = [f"{value:,} {names.get(key, key)}" for key, value in counts.items()]
        content.append(tag("p", "Parameters: ", "; ".join(words), "."))
    if run.environment:
        content.append(folded("Versions and machine", tables.environment_list(run)))
    if run.config:
        content.append(folded("Whole configuration", tables.config_list(run)))
    return section("How it was made", *content, anchor="facts") if content else Markup("")
