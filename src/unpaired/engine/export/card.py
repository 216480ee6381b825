"""The model card: facts about the model, for people, in the style of model hubs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import unpaired
from unpaired.engine.export.subject import Subject
from unpaired.tables import Table, printed

_LEAD = """Segments {classes} in {modalities} scans. Trained with `unpaired` {version}: one network,
scans of different patients, structured semantic consistency between the modalities."""
_USE = """## Intended use

Research on segmentation. Not a medical device: do not use it to diagnose or treat. It was tested
on the cases counted below and nowhere else; scanners, protocols, ages and diseases that are not
among them may give wrong labels without a warning. Look at the result."""
_LICENCE = """## Licence

Not chosen yet. Whoever shares this model fills in `license` at the top and this section; the
licences of the training scans and labels may limit the choice."""


def model_card(
    subjects: Sequence[Subject],
    facts: Mapping[str, Any],
    name: str,
    files: Sequence[str],
    parity: Mapping[str, Any] | None = None,
) -> str:
    """Markdown with a YAML head.

    Args:
        facts: as `facts_of` gives them.
        files: one line each, what lies in this folder.
        parity: the numbers of the check, if this folder holds a network.
    """
    first = subjects[0]
    plan = first.plan
    modalities = [m for subject in subjects for m in subject.modalities]
    channels = {
        m: part.channel_names for subject in subjects for m, part in subject.plan.modalities.items()
    }
    lead = _LEAD.format(
        classes=", ".join(plan.classes[1:]),
        modalities=" and ".join(modalities),
        version=unpaired.__version__,
    )
    parameters = sum(p.numel() for p in first.network.parameters())
    spacing = " x ".join(f"{mm:g}" for mm in plan.spacing_mm)
    rows = [
        ("form", _FORMS[first.form]),
        ("classes", ", ".join(f"{i} {c}" for i, c in enumerate(plan.classes))),
        *((f"input, {m}", ", ".join(names)) for m, names in channels.items()),
        ("grid", f"{spacing} mm, slices along {plan.slice_axis}"),
        ("patch", " x ".join(map(str, plan.patch)) + f", {plan.context} slices in the input"),
        ("network", f"{first.config.model.network}, {parameters:,} parameters"),
        ("trained as", first.config.model.trained_as),
        ("steps", str(facts.get("steps", "not recorded"))),
        ("configuration", f"sha256 {facts['config_sha256']}"),
    ]
    if parity is not None:
        rows.append(("written file", _parity(parity)))
    parts = [
        _head(modalities),
        f"# {name}",
        lead,
        "\n".join(f"- {line}" for line in files),
        _USE,
        "## Facts\n\n" + _table(("", ""), rows),
        "## Training and test data\n\n" + _cases(facts),
        "## Scores\n\n" + _scores(facts),
        _LICENCE,
    ]
    return "\n\n".join(parts) + "\n"


_FORMS = {
    "gains": "one network with a table of gains per modality",
    "folded": "a plain network of one modality, stem and gains folded into its weights",
}


def _head(modalities: Sequence[str]) -> str:
    tags = ["medical-imaging", "image-segmentation", *modalities]
    lines = [
        "---",
        "# license: choose one before you share this model, for example apache-2.0",
        "library_name: unpaired",
        "pipeline_tag: image-segmentation",
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in tags),
        "---",
    ]
    return "\n".join(lines)


def _parity(parity: Mapping[str, Any]) -> str:
    return (
        f"scores within {parity['largest_difference']:.2g} of the live network, "
        f"{parity['labels_differing']} of {parity['positions']} labels differ (ties)"
    )


def _cases(facts: Mapping[str, Any]) -> str:
    cases = facts.get("cases")
    if not cases:
        return "Not recorded."
    rows = [(m, *(str(n[part]) for part in ("train", "val", "test"))) for m, n in cases.items()]
    return _table(("modality", "training", "validation", "test"), rows)


def _scores(facts: Mapping[str, Any]) -> str:
    scores = facts.get("scores")
    if not scores:
        return "Not evaluated: run `unpaired evaluate` on the run before exporting."
    rows = [
        (
            m,
            cls,
            str(stats["dice"]["n"]),
            _mean("dice", stats),
            _mean("asd_mm", stats),
        )
        for m, part in scores.items()
        for cls, stats in part["classes"].items()
    ]
    return (
        "Of the run's test cases, on the grid of the scans; mean and population deviation over "
        "cases.\n\n" + _table(("modality", "class", "cases", "Dice %", "ASD mm"), rows)
    )


def _mean(name: str, stats: Mapping[str, Any]) -> str:
    mean, deviation = stats[name]["mean"], stats[name]["std"]
    if mean is None:
        return "undefined"
    return f"{printed(name).number(mean)} ({printed(name).number(deviation)})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(Table(head, rows, names=len(head)).markdown())
