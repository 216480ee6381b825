"""The answers of `unpaired benefit`: a sentence a modality, a table, and a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

from unpaired.experiments.benefit import Plan
from unpaired.experiments.jobs import Job
from unpaired.files import write_json, write_text
from unpaired.report.compare import Comparison, compare_pairs
from unpaired.report.compare_page import write_comparison
from unpaired.report.compare_sides import Side, open_side
from unpaired.report.compare_words import caveats, modality_name, p_text, sentence
from unpaired.tables import Table, escape, printed

METRICS = ("dice", "asd_mm")


@dataclass(frozen=True, repr=False)
class Benefit:
    """What training together gave.

    Attributes:
        comparisons: modality -> all together against it alone.
        open: modality -> why there is no answer.
        plan: what was run.
        files: what was written, by what it is.
    """

    comparisons: Mapping[str, Comparison]
    open: Mapping[str, str]
    plan: Plan
    files: Mapping[str, Path]

    def __repr__(self) -> str:
        return markdown(self)

    @property
    def answers(self) -> dict[str, str]:
        """A sentence a modality."""
        found = {m: sentence(one, m, "dice") for m, one in self.comparisons.items()}
        return {**found, **self.open}

    @property
    def table(self) -> Table:
        """A row a modality that has an answer."""
        how = printed("dice")
        head = ("modality", "to learn from", "alone", "together", "difference", "interval", "p",
                "test cases")  # fmt: skip
        rows = []
        for m, one in self.comparisons.items():
            effect = one.of(m, "dice")
            low, high = (how.number(value, signed=True) for value in (effect.low, effect.high))
            rows.append([
                modality_name(m), str(len(self.plan.split.train.get(m, ()))),
                how.number(effect.a.mean), how.number(effect.b.mean),
                how.number(effect.difference.mean, signed=True), f"{low} to {high}",
                p_text(effect.p), str(effect.difference.n_cases),
            ])  # fmt: skip
        return Table(head, rows, f"{how.heading}, mean over the classes")


def answer(plan: Plan, failures: Mapping[str, str]) -> Benefit:
    """Hold the runs that are done against each other, and write benefit.json, .md and the page.

    Args:
        failures: identity of a run -> why it failed.

    Raises:
        DataError: a run's scores are damaged.
        ResourceError: the folder cannot be written.
    """
    joint = plan.of(*plan.study.data)
    pairs, unanswered = dict[str, tuple[Side, Side]](), dict[str, str]()
    for m in plan.tested:
        alone = plan.of(m)
        if undone := [job for job in (*alone, *joint) if job.missing]:
            unanswered[m] = _why_open(m, undone, failures)
            continue
        pairs[m] = (
            open_side([job.folder for job in alone], f"{modality_name(m)} alone"),
            open_side([job.folder for job in joint], "all together"),
        )
    comparisons: dict[str, Comparison] = {}
    if pairs:
        found = compare_pairs(list(pairs.values()), METRICS)
        comparisons = {m: replaced(one, left_out={}) for m, one in zip(pairs, found, strict=True)}
    out = plan.study.out
    files = {"json": out / "benefit.json", "table": out / "benefit.md"}
    if comparisons:
        names = ", ".join(modality_name(m) for m in plan.study.data)
        heading = f"{names}: together against each alone"
        page = write_comparison(out / "page", list(comparisons.values()), "dice", heading)
        files["page"] = page
    benefit = Benefit(comparisons, unanswered, plan, files)
    write_text(files["table"], markdown(benefit))
    write_json(files["json"], as_json(benefit), seal=True)
    return benefit


def _why_open(m: str, undone: Sequence[Job], failures: Mapping[str, str]) -> str:
    first = undone[0]
    why = failures.get(first.identity, "its training has not ended yet")
    return f"No answer for {modality_name(m)}: {first.folder.name}: {why}"


def markdown(benefit: Benefit) -> str:
    """The answers, the table, and how they came about."""
    lines = ["# Did training together help?", ""]
    for m, text in benefit.answers.items():
        lines += [f"**{escape(text)}**", ""]
        if m in benefit.comparisons:
            one = benefit.comparisons[m]
            lines += [f"- {escape(words)}" for words in caveats(one, m, "dice")]
            lines += [f"- Unfair: {escape(words)}" for words in one.warnings]
            lines += [""]
    if benefit.comparisons:
        lines += [*benefit.table.markdown(), ""]
    lines += [f"- {escape(name)}: {escape(why)}" for name, why in benefit.plan.reasons.items()]
    lines += [f"- {escape(note)}" for note in benefit.plan.notes]
    return "\n".join(lines).rstrip() + "\n"


def as_json(benefit: Benefit) -> dict[str, Any]:
    """Everything, for programs; Dice in [0, 1], null where there is none."""
    rows = {}
    for m, one in benefit.comparisons.items():
        effect = one.of(m, "dice")
        rows[m] = {
            "alone": effect.a.mean,
            "together": effect.b.mean,
            "difference": effect.difference.mean,
            "interval": [effect.low, effect.high],
            "p": effect.p,
            "test_cases": effect.difference.n_cases,
            "training_cases": len(benefit.plan.split.train.get(m, ())),
            "caveats": list(caveats(one, m, "dice")),
            "unfair": list(one.warnings),
        }
    return {
        "answers": benefit.answers,
        "dice": rows,
        "reasons": dict(benefit.plan.reasons),
        "notes": list(benefit.plan.notes),
        "runs": {job.folder.name: not job.missing for job in benefit.plan.jobs},
        "files": {name: str(path) for name, path in benefit.files.items()},
    }
