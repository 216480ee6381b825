"""What a run folder holds, read with patience: a missing part is a sentence, not an error."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from unpaired.config import Config
from unpaired.errors import DataError
from unpaired.files import read_json
from unpaired.run.folder import RunFolder
from unpaired.run.inputs import read_inputs
from unpaired.run.scores import Evaluation

Facts = Mapping[str, Any]
DAMAGE = (DataError, OSError, ValueError, KeyError, TypeError, IndexError)


@dataclass(frozen=True)
class RunContents:
    """The parts of a run as its files hold them; what is not there is empty (evaluation: None).

    Attributes:
        steps, validations: the log's two kinds of records, in order of their step.
        semantics: the arrays of semantics.npz.
        accepted: changes of inputs that the run went on with: "when", "step", "changed".
        missing: what is not there and how to get it, one sentence each.
    """

    root: Path
    config: Facts = field(default_factory=dict)
    plan: Facts = field(default_factory=dict)
    data: Facts = field(default_factory=dict)
    split: Facts = field(default_factory=dict)
    environment: Facts = field(default_factory=dict)
    model: Facts = field(default_factory=dict)
    floor: Mapping[str, Facts] = field(default_factory=dict)
    steps: tuple[dict[str, Any], ...] = ()
    validations: tuple[dict[str, Any], ...] = ()
    semantics: Mapping[str, np.ndarray] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    accepted: tuple[Facts, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, background first; from the scores where there is no plan."""
        named = self.plan.get("classes") or self.data.get("classes")
        if not named and self.evaluation is not None:
            found = dict.fromkeys(score.cls for score in self.evaluation.scores)
            return ("background", *found)
        return tuple(map(str, named or ()))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modality names in the plan's order."""
        named = dict.fromkeys(map(str, self.plan.get("modalities", ())))
        if self.evaluation is not None:
            named.update(dict.fromkeys(score.modality for score in self.evaluation.scores))
        return tuple(named)


def read_contents(root: Path) -> RunContents:
    """Read a run folder.

    Raises:
        DataError: the folder is not there or holds nothing of a run.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the folder of a run.")
    run, missing = RunFolder(root), list[str]()
    file = _Reader(root, missing)
    found = RunContents(
        root=root,
        split=file.read("splits_final.json", _first_fold, "the split is not known"),
        config=file.read("config.toml", _toml, "the configuration is not known"),
        plan=file.read("plan.json", _mapping, "there is no plan: the data were not prepared"),
        data=file.read("data.json", _mapping, "the images cannot be found, so no overlays"),
        environment=file.read("environment.json", _mapping, "versions are not known"),
        model=file.read("model/model.json", _mapping, "the model was not exported yet"),
        floor=file.read("floor.json", _mappings, None),
        semantics=file.read(
            "semantics.npz", lambda _: run.semantics, "no class embeddings were saved"
        ),
        steps=run.steps,
        validations=run.validations,
        evaluation=_evaluation(run, missing),
        accepted=file.read("inputs.json", lambda path: read_inputs(path).accepted, None) or (),
    )
    if not (found.config or found.plan or found.steps or found.evaluation):
        raise DataError(
            f"{root} is not a run folder: it holds neither config.toml, plan.json, log.jsonl nor "
            "evaluation/evaluation.json. Give the folder that `unpaired train` wrote (--out)."
        )
    if not found.steps:
        missing.append("log.jsonl: there is no training log, so no curves.")
    elif not found.validations:
        missing.append("log.jsonl: the run was not validated yet.")
    return replace(found, missing=tuple(missing))


@dataclass(frozen=True)
class _Reader:
    """Reads files and notes what was missing or broken."""

    root: Path
    missing: list[str]

    def read(self, name: str, parse: Callable[[Path], Any], without: str | None) -> Any:
        """The parsed file, or {} and a sentence (none for a part that is optional)."""
        path = self.root / name
        try:
            if path.is_file():
                return parse(path)
            if without:
                self.missing.append(f"{name}: {without}.")
        except DAMAGE as error:
            self.missing.append(f"{name} cannot be read: {error}")
        return {}


def _evaluation(run: RunFolder, missing: list[str]) -> Evaluation | None:
    if not (run.files.evaluation() / "evaluation.json").is_file():
        missing.append(
            "evaluation/evaluation.json: the run was not evaluated yet; run `unpaired evaluate`."
        )
        return None
    try:
        return run.scores
    except DataError as error:
        missing.append(str(error))
        return None


def _mapping(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError("it is not one JSON object")
    return content


def _mappings(path: Path) -> dict[str, Any]:
    return {key: value for key, value in _mapping(path).items() if isinstance(value, dict)}


def _toml(path: Path) -> dict[str, Any]:
    """In the order of the schema: a TOML file has the tables of a section last."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    for name, table in tables.items():
        kind = getattr(Config.model_fields.get(name), "annotation", None)
        order = list(getattr(kind, "model_fields", ()))
        if order and isinstance(table, dict):
            tables[name] = {key: table[key] for key in [*order, *table] if key in table}
    return tables


def _first_fold(path: Path) -> dict[str, list[str]]:
    fold = read_json(path)[0]
    return {part: [str(case) for case in fold[part]] for part in fold}
