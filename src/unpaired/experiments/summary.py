"""What the consistency gave, over all stored experiments, in one table."""

from collections.abc import Mapping

from unpaired.experiments.cells import Results
from unpaired.experiments.effects import Effect, effects
from unpaired.experiments.rows import EXPERIMENTS, OURS
from unpaired.experiments.table import Table, markdown_table
from unpaired.experiments.tables import NOT_RUN, difference

HEAD = ("study", "experiment", "Ours minus", "modality", "Δ Dice", "95 % interval", "p, Holm")
COUNTS = ("cases", "seeds", "shown")


def summary(stored: Mapping[tuple[str, str], Results]) -> str:
    """Markdown: every comparison of Ours with another row, and what was not run.

    Args:
        stored: (study, experiment) -> its results.
    """
    rows = [
        (study, name, *line)
        for (study, name), results in stored.items()
        for line in map(_line, effects(results))
        if line is not None
    ]
    table = Table(f"{OURS.name} against other rows", (*HEAD, *COUNTS), tuple(rows), 4)
    studies = dict.fromkeys(study for study, _ in stored)
    left = {s: [name for name in EXPERIMENTS if (s, name) not in stored] for s in studies}
    missing = [f"- {NOT_RUN} on {s}: {', '.join(names)}." for s, names in left.items() if names]
    return "\n".join([*markdown_table(table), "", *missing]) + "\n"


def _line(one: Effect) -> tuple[str, ...] | None:
    if one.row != OURS.name:
        return None
    mean, interval, _, corrected, *rest = difference(one)
    return (one.against, one.modality, mean, interval, corrected, *rest)
