"""What a run folder holds, read with patience: a missing part is a sentence, not an error."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unpaired.errors import DataError
from unpaired.files import read_json
from unpaired.run.log import read_log
from unpaired.run.scores import Evaluation, read_evaluation


@dataclass(frozen=True)
class Run:
    """The parts of a run folder; those that are not there are empty (evaluation: None).

    Attributes:
        steps, validations: the log's two kinds of records, in order of their step.
        semantics: the arrays of semantics.npz.
        missing: what is not there and how to get it, one sentence each.
    """

    root: Path
    config: Mapping[str, Any]
    plan: Mapping[str, Any]
    data: Mapping[str, Any]
    split: Mapping[str, Any]
    environment: Mapping[str, Any]
    model: Mapping[str, Any]
    floor: Mapping[str, Mapping[str, Any]]
    steps: tuple[dict[str, Any], ...]
    validations: tuple[dict[str, Any], ...]
    semantics: Mapping[str, np.ndarray]
    evaluation: Evaluation | None
    missing: tuple[str, ...]

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


def open_run(root: Path) -> Run:
    """Read a run folder.

    Raises:
        DataError: the folder is not there or holds nothing of a run.
    """
    reader = _Reader(root)
    split = reader.read("splits_final.json", _first_fold, "the split is not known")
    run = Run(
        root=root,
        config=reader.read("config.toml", _toml, "the configuration is not known"),
        plan=reader.read("plan.json", _mapping, "there is no plan: the data were not prepared"),
        data=reader.read("data.json", _mapping, "the images cannot be found, so no overlays"),
        split=split,
        environment=reader.read("environment.json", _mapping, "versions are not known"),
        model=reader.read("model/model.json", _mapping, "the model was not exported yet"),
        floor=reader.read("floor.json", _mappings, None),
        steps=_records(root, "step"),
        validations=_records(root, "validation"),
        semantics=reader.read("semantics.npz", _arrays, "no class embeddings were saved"),
        evaluation=reader.evaluation(),
        missing=tuple(reader.missing),
    )
    if not (run.config or run.plan or run.steps or run.evaluation):
        raise DataError(
            f"{root} is not a run folder: it holds neither config.toml, plan.json, log.jsonl nor "
            "evaluation/evaluation.json. Give the folder that `unpaired train` wrote (--out)."
        )
    if not run.steps:
        reader.missing.append("log.jsonl: there is no training log, so no curves.")
    elif not run.validations:
        reader.missing.append("log.jsonl: the run was not validated yet.")
    return Run(**{**vars(run), "missing": tuple(reader.missing)})


class _Reader:
    """Reads files and notes what was missing or broken."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(f"{root} is not a folder; give the folder of a run.")
        self.root = root
        self.missing: list[str] = []

    def read(self, name: str, parse: Callable[[Path], Any], without: str | None) -> Any:
        """The parsed file, or {} and a sentence (none for a part that is optional)."""
        path = self.root / name
        try:
            if path.is_file():
                return parse(path)
            if without:
                self.missing.append(f"{name}: {without}.")
        except (DataError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
            self.missing.append(f"{name} cannot be read: {error}")
        return {}

    def evaluation(self) -> Evaluation | None:
        folder = self.root / "evaluation"
        if not (folder / "evaluation.json").is_file():
            self.missing.append(
                "evaluation/evaluation.json: the run was not evaluated yet; "
                "run `unpaired evaluate`."
            )
            return None
        try:
            return read_evaluation(folder)
        except DataError as error:
            self.missing.append(str(error))
            return None


def _mapping(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError("it is not one JSON object")
    return content


def _mappings(path: Path) -> dict[str, Any]:
    return {key: value for key, value in _mapping(path).items() if isinstance(value, dict)}


def _toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _first_fold(path: Path) -> dict[str, list[str]]:
    fold = read_json(path)[0]
    return {part: [str(case) for case in fold[part]] for part in fold}


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _records(root: Path, kind: str) -> tuple[dict[str, Any], ...]:
    """The last record of each step, so that a resumed run has no doubles."""
    found = {
        record["step"]: record
        for record in read_log(root / "log.jsonl")
        if isinstance(record, dict) and record.get("kind") == kind and "step" in record
    }
    return tuple(found[step] for step in sorted(found))
