"""best.json: a choice among runs, which stands for the model of those that were chosen."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unpaired.errors import DataError
from unpaired.files import printable, read_json, write_json

CHOICE = "best.json"
FORMAT, SCHEMA = "unpaired-best", 1


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        name: as it is printed, such as "2d + 3d".
        runs: the runs that predict together; each counts alike.
        digests: of each run, the fingerprints of its models when it was chosen.
        facts: further JSON values: how it was chosen.
    """

    name: str
    runs: tuple[Path, ...]
    digests: tuple[tuple[str, ...], ...]
    facts: Mapping[str, Any]

    def write(self, folder: Path) -> Path:
        """Write `folder`/best.json; the runs are named from there, so that all may move together.

        Raises:
            ResourceError: it cannot be written.
        """
        models = [
            {"run": _from(folder, run), "digests": list(digests)}
            for run, digests in zip(self.runs, self.digests, strict=True)
        ]
        about = {"format": FORMAT, "schema": SCHEMA, "name": self.name, "models": models}
        write_json(folder / CHOICE, {**about, **self.facts}, seal=True)
        return folder / CHOICE

    def check(self, found: Sequence[Sequence[str]]) -> None:
        """Hold the fingerprints of the models there are against those that were chosen.

        Raises:
            DataError: a run changed since.
        """
        for run, then, now in zip(self.runs, self.digests, found, strict=True):
            if list(then) != list(now):
                raise DataError(
                    f"{printable(run)} changed since it was chosen: its models are others. Choose "
                    "again (`unpaired best`), or name the run itself."
                )


def choice_path(path: Path) -> Path | None:
    """The record of a choice that a file or folder is; None for anything else."""
    if path.is_dir():
        path = path / CHOICE
    return path if path.name == CHOICE and path.is_file() else None


def read_choice(path: Path) -> Choice:
    """Read what `Choice.write` wrote.

    Raises:
        DataError: damaged, foreign, newer, or a run is not where it was.
    """
    content = read_json(path)
    try:
        if content["format"] != FORMAT:
            raise ValueError("it is no choice")
        if content["schema"] != SCHEMA:
            raise DataError(f"{printable(path)} is of a newer version. Update unpaired.")
        models = content.pop("models")
        runs = tuple(path.parent / str(one["run"]) for one in models)
        digests = tuple(tuple(map(str, one["digests"])) for one in models)
        found = Choice(str(content.pop("name")), runs, digests, content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{printable(path)} is not what `unpaired best` writes ({error!r}). Choose again."
        ) from error
    for run in runs:
        if not run.is_dir():
            raise DataError(
                f"{printable(path)} chose {printable(run)}, which does not exist. Put it back "
                "beside the choice, or choose again (`unpaired best`)."
            )
    return found


def _from(folder: Path, run: Path) -> str:
    """The way to the run; on Windows there is none to another disk."""
    try:
        return Path(os.path.relpath(run.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return run.resolve().as_posix()
