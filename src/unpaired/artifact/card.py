"""The model card: facts about the model, for people, in the style of model hubs."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import unpaired
from unpaired.artifact.model import Model
from unpaired.artifact.places import RECORD, read_record
from unpaired.artifact.safetensors import DESCRIPTION
from unpaired.datasets.split_file import PARTS
from unpaired.errors import DataError
from unpaired.files import read_json
from unpaired.run import RunFolder
from unpaired.run.scores import Evaluation, summarise
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
    models: Sequence[Model],
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
    first = models[0]
    plan = first.plan
    modalities = [m for model in models for m in model.modalities]
    channels = {
        m: part.channel_names for model in models for m, part in model.plan.modalities.items()
    }
    lead = _LEAD.format(
        classes=", ".join(plan.classes[1:]),
        modalities=" and ".join(modalities),
        version=unpaired.__version__,
    )
    parameters = sum(p.numel() for p in first.segmenter.parameters())
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


# What is known of a model besides its weights: for the model card and the export's record.


def facts_of(source: Model) -> dict[str, Any]:
    """Facts as JSON values; what is not known is left out.

    Returns:
        "digest" of the source's model and "config_sha256"; "steps"; "cases": modality ->
        {"train", "val", "test"}: counts; "scores": modality -> {"cases", "classes": {class:
        {"dice": {"mean", "std", "n"}, "asd_mm": ...}}} of the run's evaluation.
    """
    extra = _extra(source.folder)
    if isinstance(earlier := extra.get("facts"), dict) and "config_sha256" in earlier:
        return earlier  # an export of an export: what was known of the first
    config = json.dumps(source.config.model_dump(mode="json"), sort_keys=True)
    facts: dict[str, Any] = {
        "digest": source.digest,
        "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
    }
    if isinstance(step := extra.get("step"), int):
        facts["steps"] = step
    run = RunFolder(source.folder.parent)
    if run.files.model == source.folder:
        facts.update(_of_run(run))
    return facts


def _extra(folder: Path) -> dict[str, Any]:
    """What the model's description says besides; an export's record says it where there is one."""
    try:
        if (folder / RECORD).is_file():
            return read_record(folder)
        found = read_json(folder / DESCRIPTION).get("extra", {})
    except (DataError, AttributeError):  # the copy may be missing; the weights are whole alone
        return {}
    return found if isinstance(found, dict) else {}


def _of_run(run: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        parts = {name: run.cases(name) for name in PARTS}
        found["cases"] = {m: {n: len(p[m]) for n, p in parts.items()} for m in run.data.cases}
    except DataError:  # moved away from its records
        pass
    if (run.files.evaluation() / "evaluation.json").is_file():
        found["scores"] = _facts_scores(run.scores)
    return found


def _facts_scores(evaluation: Evaluation) -> dict[str, Any]:
    """Mean, deviation and count of Dice and ASD, per modality and class."""
    kept: dict[str, Any] = {}
    for m, part in summarise(evaluation.scores).items():
        classes = {
            cls: {
                metric: {k: _rounded(stats[metric][k]) for k in ("mean", "std", "n")}
                for metric in ("dice", "asd_mm")
            }
            for cls, stats in part["classes"].items()
        }
        kept[m] = {"cases": part["cases"], "classes": classes}
    return kept


def _rounded(value: float | int) -> float | int | None:
    return None if value != value else round(value, 4)
