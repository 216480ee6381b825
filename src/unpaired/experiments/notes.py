"""What a reader must know beside the numbers: all of it from the records."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from unpaired.config import load_config
from unpaired.evaluation.evaluate import PREPARED
from unpaired.experiments.paper import published
from unpaired.experiments.record import Record, in_use, settings_of
from unpaired.experiments.results import Result, Results
from unpaired.experiments.rows import HEART

READ = (
    "Mean ± population deviation over the test cases of all seeds together; in brackets the sample "
    "deviation of the seeds' means. The mean columns are means over the classes, and over the "
    "modalities. A class that the truth lacks is left out; where the prediction is empty, Dice is "
    "0 and there is no distance."
)
COMPARED = (
    "Row against row: the interval resamples seeds and test cases, p is Wilcoxon's over the cases. "
    '"higher" and "lower": the interval leaves out zero and p, corrected for all lines, is below '
    '0.05; "perhaps": only the interval does. "no difference": none is shown, which is not that '
    "there is none."
)
FEW = 5
"""Fewer seeds than this say little of what another training would give."""

NETWORK, GRID = "network", "grid in mm"
SETTINGS = {
    "model.backbone": NETWORK,
    "data.spacing_mm": GRID,
    "data.patch": "patch",
    "model.options.embed_dim": "width",
    "train.steps": "steps",
    "train.batch_size": "images per modality and step",
    "train.optimizer": "optimiser",
    "train.learning_rate": "learning rate",
    "train.keep": "weights kept",
}
"""The settings that a reader is told, in words."""
LOSS = {
    "loss.tau": "τ",
    "loss.mask_absent": "classes absent from an image left out of L_icr",
    "loss.class_weights": "cross-entropy weights of the classes",
    "loss.dice_background": "background in the Dice loss",
    "loss.ce": "weight of the cross-entropy",
    "loss.dice": "weight of the Dice loss",
    "loss.aux_target": "size at which the auxiliary prediction is compared",
    "model.maps": "semantic-aware maps",
    "model.shared_embeddings": "one set of class embeddings for all modalities",
}
"""Settings of the method in words; one that is missing here is told by its own name."""
NO_LOSS = {
    *("loss.alpha", "loss.beta", "loss.gamma", "loss.distill", "loss.distill_tau"),
    *("model.name", "model.backbone", "model.variant", "model.heads"),
    *("model.scaling_at_test", "model.pretrained"),
}
"""Not compared with the paper: what makes a row or a network, or has no value in the paper."""
OPEN = (
    "What the paper leaves open is ours: α, β and γ, and of cross-entropy and Dice all but their "
    "names."
)
IMAGENET = "The paper's rows start from ImageNet weights."


def notes(results: Results) -> list[str]:
    """How the numbers came about, one or two sentences each."""
    records = _distinct(record for row in results.rows for record in row.all_records)
    if not records:
        return list(results.notes)
    own = [record for record in records if record.is_papers_method]
    sentences = [READ, *_compared(results), *_not_papers(results), _recipe(own or records)]
    if own:
        sentences += [_loss(results), _start(results)]
        sentences += [text for row in results.rows for text in _other_network(row, own)]
    sentences += [_cases(records), *dict.fromkeys(_draws(results)), _machine(records)]
    for row in results.rows:
        if 0 < len(row.records) < row.wanted:
            why = f" Another {row.reason}" if row.reason else ""
            sentences.append(f"{row.row.name}: {len(row.records)} of {row.wanted} seeds.{why}")
    missed = {row.row.name: _missed(row) for row in results.rows}
    if counts := ", ".join(f"{name} {count}" for name, count in missed.items() if count):
        sentences.append(f"Organs that are there and were not found at all: {counts}.")
    table = results.experiment.table if results.paper else None
    errata = [c.erratum for c in published() if c.table == table and c.erratum]
    sentences += [f"\\* as printed; {text}." for text in dict.fromkeys(errata)]
    return [*sentences, *results.notes]


def _compared(results: Results) -> Iterator[str]:
    """How to read the differences, where there are any."""
    seeds = min((one.difference.n_seeds for one in results.effects.values()), default=0)
    if seeds == 1:
        yield f"{COMPARED} One seed: another training may say otherwise."
    elif seeds:
        few = f" {seeds} seeds are few: another training may say otherwise." * (seeds < FEW)
        yield COMPARED + few


def _distinct(records: Iterable[Record]) -> list[Record]:
    return list({(r.identity, r.test): r for r in records}.values())


def _recipe(records: Sequence[Record]) -> str:
    """From the settings that runs share."""
    words = [f"{text} {_words(value)}" for text, value in _shared(records).items()]
    for key, name in (("alpha", "α"), ("beta", "β"), ("gamma", "γ")):
        weight = max((float(r.settings.get(f"loss.{key}", 0)) for r in records), default=0.0)
        words.append(f"{name} {weight:g} where used")
    return f"Recipe, the same for all rows: {', '.join(words)}."


def _shared(records: Sequence[Record]) -> dict[str, object]:
    """Setting in words -> its value, of those that are told and alike in all runs that use it."""
    used = [in_use(record.settings) for record in records]
    values = {text: [one[key] for one in used if key in one] for key, text in SETTINGS.items()}
    return {t: own[0] for t, own in values.items() if own and all(v == own[0] for v in own)}


def _other_network(row: Result, own: Sequence[Record]) -> Iterator[str]:
    """Of a row with a network of its own: what it does not have in common with the paper's rows."""
    theirs = _distinct(row.all_records)
    if not theirs or theirs[0].is_papers_method:
        return
    common = _shared(own)
    other = {k: v for k, v in _shared(theirs).items() if k in common and v != common[k]}
    other.pop(NETWORK, None)
    words = ", ".join(f"{text} {_words(value)}" for text, value in other.items())
    but = f", with {words}" if words else ""
    apart = " Scores on the prepared grid are on that grid." if GRID in other else ""
    yield f"{row.row.name}: a network of its own (docs/comparators.md){but}.{apart}"


def _not_papers(results: Results) -> Iterator[str]:
    """That these are not the rows of the paper's table."""
    if results.other_network:
        yield (
            f"Not the paper's network: its rows are {results.experiment.network}, these are "
            f"{results.network}. Its numbers are not printed beside."
        )


def _loss(results: Results) -> str:
    """Every setting of the losses that is not the paper's, and the rows that have it."""
    paper = settings_of(load_config(results.experiment.preset or HEART))
    run = {r.row.name: r.all_records[0] for r in results.rows if r.all_records}
    found: dict[str, list[str]] = {}
    for name, record in run.items():
        for key, value in in_use(record.settings).items() if record.is_papers_method else ():
            varied = results.experiment.tau and key == "loss.tau"
            if _is_loss(key) and not varied and value != paper.get(key, value):
                text = f"{LOSS.get(key, key)} {_said(value)} (the paper: {_said(paper[key])})"
                found.setdefault(text, []).append(name)
    if not found:
        return f"Every setting of the losses is the paper's. {OPEN}"
    texts = (
        f"{text} in {'every row' if len(names) == len(run) else _quoted(names)}"
        for text, names in found.items()
    )
    return f"Settings of the losses that are not the paper's: {'; '.join(texts)}. {OPEN}"


def _quoted(rows: Sequence[str]) -> str:
    """Names of rows; some hold a comma."""
    return ", ".join(f'"{name}"' for name in rows)


def _is_loss(key: str) -> bool:
    return key.startswith(("loss.", "model.")) and not (
        key in NO_LOSS or key.startswith("model.options.")
    )


def _said(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _start(results: Results) -> str:
    """Which rows began with weights from a file, and with which."""
    files: dict[str, list[str]] = {}
    bare: list[str] = []
    for row in results.rows:
        own = [record for record in row.all_records if record.is_papers_method]
        if own and own[0].pretrained:
            start = own[0].pretrained
            share = f"{min(r.pretrained['percent'] for r in own):g} %"
            text = f"{start['file']} ({start['layout']}; {share} of encoder and decoder)"
            files.setdefault(text, []).append(row.row.name)
        elif own:
            bare.append(row.row.name)
    if not files:
        return f"Every row starts from random weights. {IMAGENET}"
    texts = [f"{_quoted(names)} from {text}" for text, names in files.items()]
    if bare:
        texts.append(f"{_quoted(bare)} from random weights")
    return f"Start of the training: {'; '.join(texts)}. {IMAGENET}"


def _words(value: object) -> str:
    return " x ".join(f"{v:g}" for v in value) if isinstance(value, list) else str(value)


def _cases(records: Sequence[Record]) -> str:
    """Sizes of the parts, of the first run with most modalities."""
    first = max(records, key=lambda r: len(r.modalities))
    parts = [
        f"{'/'.join(str(len(ids)) for ids in first.split[part].values())} {name}"
        for part, name in (("train", "to train"), ("val", "to validate"), ("test", "to test"))
    ]
    draws = len({str(r.split["test"]) for r in records if r.modalities == first.modalities})
    how = "one split for all seeds" if draws == 1 else f"{draws} random splits"
    return f"Cases ({'/'.join(first.modalities)}): {', '.join(parts)}; {how}."


def _draws(results: Results) -> Iterator[str]:
    """Of few-shot rows: seeds may have drawn the same cases, and are then no independent draws."""
    for row in results.rows:
        if row.row.shots is None or len(row.records) < 2:
            continue
        role, count = row.row.shots
        m = results.modalities[role]
        drawn = {str(record.split["train"][m]) for record in row.all_records}
        yield (
            f"Few training cases of {m}, {count} a seed: {len(row.records)} seeds, "
            f"{len(drawn)} different draws."
        )


def _machine(records: Sequence[Record]) -> str:
    about = records[0].environment
    seconds = np.median([r.seconds["train"] for r in records])
    device = about.get("gpu") or about.get("cpu")
    return (
        f"{len(records)} runs, median {seconds / 60:.1f} min of training, on {device}; "
        f"torch {about['versions']['torch']}."
    )


def _missed(row: Result) -> int:
    """Organs that are in the truth and were not predicted at all."""
    return sum(
        one.truth_voxels > 0 and one.prediction_voxels == 0
        for record in row.all_records
        for one in record.scores.get(PREPARED, ())
    )
